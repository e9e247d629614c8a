"""Commands of runs: make, train, validate, list and show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dacapo.cli.group import Ticker, assignment, cli, filled, run_name, stores


@cli.command()
@click.argument("folder", default="demo", type=click.Path(file_okay=False))
def demo(folder: str) -> None:
    """Make a volume, train on it, segment another one, and show how good it is: all in some minutes.

    Writes everything into FOLDER (./demo). Run again, it goes on where it was stopped.
    """
    from dacapo.demo import run_demo

    run_demo(Path(folder), Ticker())


@cli.command()
@click.argument("experiment", type=click.Path(dir_okay=False))
@click.option(
    "--report", type=click.Path(dir_okay=False), help="Where the report goes; into the run's folder by default."
)
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Set a field of the YAML, such as num_iterations=500."
)
@click.option(
    "--data", metavar="DIR", help="Folder that relative data paths of the YAML are in; the YAML's own by default."
)
def run(experiment: str, report: str | None, changes: tuple[str, ...], data: str | None) -> None:
    """Train and validate EXPERIMENT.yaml and report on it. Stopped, the same command goes on."""
    from dacapo import summary

    config = _load(experiment, changes, data)
    config, path = summary.run(
        config, report=Path(report) if report else None, stores=stores(), progress=Ticker().training
    )
    for line in summary.score_lines(config):
        click.echo(line)
    click.echo(f"look:  {path}")


def _load(experiment: str, changes: tuple[str, ...], data: str | None) -> Any:
    from dacapo.train import load

    return load(experiment, stores(), changes=dict(assignment(c) for c in changes), data=Path(data) if data else None)


@cli.command()
@click.argument("experiment", required=False)
@run_name
@click.option("--no-validation", is_flag=True, help="Do not validate along the way.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Set a field of the YAML.")
@click.option("--data", metavar="DIR", help="Folder that relative data paths of the YAML are in.")
def train(
    experiment: str | None, run_name: str | None, no_validation: bool, changes: tuple[str, ...], data: str | None
) -> None:
    """Train EXPERIMENT.yaml, or go on with the stored run of that name."""
    import dacapo

    (named,) = filled((experiment,) if experiment else (), EXPERIMENT=run_name)
    config = _load(named, changes, data)
    dacapo.train(config, validate=not no_validation, stores=stores(), progress=Ticker().training)
    click.echo(f"trained {config} to iteration {config.num_iterations}")


@cli.command()
@click.argument("name", required=False)
@run_name
@click.option("-i", "--iteration", type=int, help="The latest by default.")
@click.option("-w", "--num_workers", type=int, hidden=True, help="Upstream's; a validation takes what the machine has.")
@click.option(
    "-dt", "--output_dtype", hidden=True, help="Upstream's; predictions are scored as they are stored, uint8."
)
@click.option("-ow", "--overwrite", is_flag=True, hidden=True, help="Upstream's; scores that are there are replaced.")
def validate(name: str | None, run_name: str | None, iteration: int | None, **upstreams: Any) -> None:
    """Validate the weights of run NAME and store the scores."""
    import dacapo
    from dacapo.summary import score_lines

    (named,) = filled((name,) if name else (), NAME=run_name)
    opened = stores()
    config = dacapo.load(named, opened)
    done = dacapo.validate(config, iteration, stores=opened)
    click.echo(f"validated iteration {done.iteration}")
    for line in score_lines(config):
        click.echo(line)


@cli.command("list")
def list_runs() -> None:
    """The runs of the store: state, iteration, best score, age."""
    from dacapo import summary

    for line in summary.list_runs(stores()):
        click.echo(line)


@cli.command()
@click.argument("name", required=False)
@click.option("--example", is_flag=True, help="Print an experiment to start from, every field explained.")
def show(name: str | None, example: bool) -> None:
    """What run NAME is and how good: the best per dataset and criterion, with its parameters."""
    from dacapo import summary

    if example:
        click.echo(summary.example_experiment())
        return
    if name is None:
        raise click.UsageError("give the name of a run, or --example")
    for line in summary.show(name, stores()):
        click.echo(line)
