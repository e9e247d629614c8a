"""The command line: parses, calls one function a command, prints, and says a user's mistake in one line.

Everything but click is imported inside the commands, so that `dacapo --help` is instant.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dacapo.errors import DacapoError

if TYPE_CHECKING:
    from dacapo.store import Stores
    from dacapo.train import Progress


class _Group(click.Group):
    """Unknown commands are answered with the nearest."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from dacapo.errors import did_you_mean

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}.{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are used


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--runs", metavar="DIR", help="Folder of runs, instead of the one that dacapo.yaml names (or ~/dacapo).")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default="WARNING",
)
@click.version_option(package_name="dacapo")
def cli(runs: str | None, debug: bool, log_level: str) -> None:
    """Train, validate and run deep networks that segment 3D microscopy volumes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of OpenMP sleep instead of taking cores
    if runs:
        os.environ["DACAPO_RUNS_BASE_DIR"] = str(Path(runs).expanduser().absolute())
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line; a user's mistake is one line and exit code 2."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        cli.main(arguments, prog_name="dacapo", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        _fail(error.format_message())
    except click.Abort:
        sys.exit(130)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit):
            raise
        click.echo("\nstopped: the same command goes on from here", err=True)
        sys.exit(130)
    except DacapoError as error:
        if "--debug" in arguments:
            raise
        _fail(str(error))
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _stores() -> Stores:
    from dacapo.store import Stores

    return Stores.from_options()


class _Ticker:
    """Progress: a line that is rewritten in a terminal, one line every 30 s elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = 0.0
        self.open = False
        self.begun: dict[str, float] = {}

    def show(self, text: str, *, final: bool = False) -> None:
        now = time.monotonic()
        if not final and now - self.last < (0.2 if self.terminal else 30):
            return
        self.last = now
        if self.terminal:
            click.echo(f"\r\x1b[2K  {text}", nl=final, err=True)
            self.open = not final
        else:
            click.echo(f"  {text}", err=True)

    def blocks(self, stage: str, done: int, total: int) -> None:
        started = self.begun.setdefault(stage, time.monotonic())
        elapsed = time.monotonic() - started
        eta = f"  ETA {_duration(elapsed / done * (total - done))}" if 0 < done < total else ""
        self.show(f"{stage:<12} {_bar(done, total)} {done:,}/{total:,} blocks{eta}", final=done == total)

    def training(self, p: Progress) -> None:
        if p.event == "validating":
            self.show(f"validating   iteration {p.iteration}", final=True)
        elif p.event == "validated":
            self.last = 0.0
        else:
            rate = f"{1 / p.seconds_per_iteration:.2f} it/s" if p.seconds_per_iteration else ""
            left = _duration((p.num_iterations - p.iteration) * p.seconds_per_iteration)
            self.show(
                f"training     {_bar(p.iteration, p.num_iterations)} {p.iteration:,}/{p.num_iterations:,}  {rate}  "
                f"loss {p.loss:.4f}  data {p.data_share:.0%} of the time  ETA {left}",
                final=p.iteration == p.num_iterations,
            )


def _bar(done: int, total: int, width: int = 20) -> str:
    filled = width * done // max(1, total)
    return "█" * filled + "░" * (width - filled)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {seconds} s" if minutes else f"{seconds} s"


@cli.command()
@click.argument("folder", default="demo", type=click.Path(file_okay=False))
def demo(folder: str) -> None:
    """Make a volume, train on it, segment another one, and show how good it is: all in some minutes.

    Writes everything into FOLDER (./demo). Run again, it goes on where it was stopped.
    """
    from dacapo.demo import run_demo

    run_demo(Path(folder), _Ticker())


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
        config, report=Path(report) if report else None, stores=_stores(), progress=_Ticker().training
    )
    for line in summary.score_lines(config):
        click.echo(line)
    click.echo(f"look:  {path}")


def _load(experiment: str, changes: tuple[str, ...], data: str | None) -> Any:
    from dacapo.train import load

    return load(experiment, _stores(), changes=dict(_assignment(c) for c in changes), data=Path(data) if data else None)


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: expected NAME=VALUE")
    return name.strip(), yaml.safe_load(value)


@cli.command()
@click.argument("experiment")
@click.option("--no-validation", is_flag=True, help="Do not validate along the way.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Set a field of the YAML.")
@click.option("--data", metavar="DIR", help="Folder that relative data paths of the YAML are in.")
def train(experiment: str, no_validation: bool, changes: tuple[str, ...], data: str | None) -> None:
    """Train EXPERIMENT.yaml, or go on with the stored run of that name."""
    import dacapo

    config = _load(experiment, changes, data)
    dacapo.train(config, validate=not no_validation, stores=_stores(), progress=_Ticker().training)
    click.echo(f"trained {config} to iteration {config.num_iterations}")


@cli.command()
@click.argument("name")
@click.option("-i", "--iteration", type=int, help="The latest by default.")
def validate(name: str, iteration: int | None) -> None:
    """Validate the weights of run NAME and store the scores."""
    import dacapo
    from dacapo.summary import score_lines

    stores = _stores()
    config = dacapo.load(name, stores)
    done = dacapo.validate(config, iteration, stores=stores)
    click.echo(f"validated iteration {done.iteration}")
    for line in score_lines(config):
        click.echo(line)


_output_options: list[Callable[[Any], Any]] = [
    click.option("-o", "--output", required=True, help="Where it goes."),
    click.option("--roi", metavar="[a:b,c:d,e:f]", help="Region, in voxels of the output; everything by default."),
    click.option(
        "-w", "--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes; 0 uses this one."
    ),
    click.option("--overwrite", is_flag=True, help="Replace what something else wrote there."),
]


def _with_output(command: Any) -> Any:
    for option in reversed(_output_options):
        command = option(command)
    return command


@cli.command()
@click.argument("name")
@click.argument("raw")
@_with_output
@click.option("-i", "--iteration", type=int, help="Weights of this iteration; the best by default.")
@click.option("-c", "--criterion", help="Best by what.")
@click.option("--dtype", type=click.Choice(["uint8", "float32"]), default="uint8", show_default=True)
def predict(
    name: str, raw: str, output: str, roi: str | None, workers: int, overwrite: bool,
    iteration: int | None, criterion: str | None, dtype: str,
) -> None:  # fmt: skip
    """Predict the volume RAW with run NAME, blockwise: dacapo predict fly vol.zarr/raw -o out.zarr/prediction."""
    import dacapo

    ticker = _Ticker()
    report = dacapo.predict(
        name, raw, output, iteration=iteration, criterion=criterion, roi=_roi(roi), workers=workers, dtype=dtype,
        overwrite=overwrite, stores=_stores(), progress=lambda done, total: ticker.blocks("predict", done, total),
    )  # fmt: skip
    click.echo(f"predicted {report.total} blocks to {output}")


@cli.command()
@click.argument("name")
@click.argument("prediction")
@_with_output
@click.option("-c", "--criterion", help="Parameters that are best by what.")
@click.option("-p", "--parameters", metavar="a=1,b=2", help="These parameters instead of the best.")
def segment(
    name: str, prediction: str, output: str, roi: str | None, workers: int, overwrite: bool,
    criterion: str | None, parameters: str | None,
) -> None:  # fmt: skip
    """Segment a PREDICTION of run NAME, blockwise, with the best parameters."""
    import dacapo

    stores = _stores()
    config = dacapo.load(name, stores)
    dacapo.segment(
        config, prediction, output, parameters=_parameters(config, parameters), criterion=criterion, roi=_roi(roi),
        workers=workers, overwrite=overwrite, stores=stores, progress=_Ticker().blocks,
    )  # fmt: skip
    click.echo(f"segmented to {output}")


@cli.command()
@click.argument("name")
@click.argument("raw")
@_with_output
@click.option("-c", "--criterion", help="Best by what; the task's main criterion by default.")
@click.option("-d", "--dataset", help="Best on which validation dataset; the first by default.")
@click.option("-i", "--iteration", type=int, help="This iteration instead of the best.")
@click.option("-p", "--parameters", metavar="a=1,b=2", help="These parameters instead of the best.")
def apply(
    name: str, raw: str, output: str, roi: str | None, workers: int, overwrite: bool,
    criterion: str | None, dataset: str | None, iteration: int | None, parameters: str | None,
) -> None:  # fmt: skip
    """Predict and segment the volume RAW with the best of run NAME: dacapo apply fly vol.zarr/raw -o out.zarr."""
    import dacapo

    stores = _stores()
    config = dacapo.load(name, stores)
    done = dacapo.apply(
        config, raw, output, criterion=criterion, dataset=dataset, iteration=iteration,
        parameters=_parameters(config, parameters), roi=_roi(roi), workers=workers, overwrite=overwrite,
        stores=stores, progress=_Ticker().blocks,
    )  # fmt: skip
    click.echo(f"iteration {done.iteration}, {done.parameters}")
    click.echo(f"prediction    {done.prediction}")
    click.echo(f"segmentation  {done.segmentation}")


@cli.command()
@click.argument("segmentation")
@click.option("--against", "truth", required=True, help="Ground truth.")
@click.option("--mask", help="0 = ignore.")
@click.option("--unlabelled", type=int, help="Ground truth voxels of this id are ignored.")
@click.option("--binary", is_flag=True, help="Foreground against foreground instead of instances.")
def evaluate(segmentation: str, truth: str, mask: str | None, unlabelled: int | None, binary: bool) -> None:
    """Score a SEGMENTATION against ground truth."""
    import dacapo

    scores = dacapo.evaluate(segmentation, truth, mask=mask, unlabelled=unlabelled, binary=binary)
    for criterion in scores.criteria:
        click.echo(f"{criterion:<40} {scores.value(criterion):.4f}")


@cli.command("list")
def list_runs() -> None:
    """The runs of the store: state, iteration, best score, age."""
    from dacapo import summary

    for line in summary.list_runs(_stores()):
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
    for line in summary.show(name, _stores()):
        click.echo(line)


@cli.command("import-upstream")
@click.argument("runs_base_dir", type=click.Path(exists=True, file_okay=False))
@click.option("--run", "runs", multiple=True, metavar="NAME", help="This run alone; may be given again.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="A checkpoint file for that one run.")
def import_upstream(runs_base_dir: str, runs: tuple[str, ...], weights: str | None) -> None:
    """Bring in runs that janelia-cellmap/dacapo keeps in RUNS_BASE_DIR, which is only read."""
    from dacapo.import_upstream import import_upstream

    done = import_upstream(runs_base_dir, runs, weights=weights, stores=_stores())
    for found in done:
        click.echo(f"{found.run}: {'; '.join(found.brought) or 'nothing'}")
        for line in (*found.left, *([f"not brought in: {found.error}"] if found.error else [])):
            click.echo(f"  {line}")
    failed = sum(found.error is not None for found in done)
    if failed:
        raise click.ClickException(f"{failed} of {len(done)} runs could not be brought in")


def _roi(text: str | None) -> Any:
    """`[0:10,0:20,5:30]` in voxels."""
    if text is None:
        return None
    from dacapo.geometry import Roi

    try:
        pairs = [tuple(int(v) for v in part.split(":")) for part in text.strip("[] ").split(",")]
        begin = [b for b, _ in pairs]
    except ValueError:
        raise click.UsageError(f"--roi {text}: expected begin:end per axis, such as [0:64,0:128,0:128]") from None
    if any(b >= e for b, e in pairs):
        raise click.UsageError(f"--roi {text}: each end must be larger than its begin")
    return Roi(begin, [e - b for b, e in pairs])


def _parameters(config: Any, text: str | None) -> Any:
    """`bias=0.3,bias_long=0.7` of the post-processor of a run."""
    if text is None:
        return None
    import yaml

    first = next(iter(config.task.parameters))
    given = dict(_assignment(part) for part in text.split(","))
    unknown = set(given) - set(first.parameter_names)
    if unknown:
        raise click.UsageError(
            f"--parameters: no {', '.join(sorted(unknown))}; there are {', '.join(first.parameter_names)}"
        )
    del yaml
    return type(first)(**{**first.model_dump(), **given})


if __name__ == "__main__":
    main()
