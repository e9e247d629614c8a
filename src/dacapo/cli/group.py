"""What all commands share: the group, how a mistake is said, progress, and options that several have.

Everything but click is imported inside functions, so that `dacapo --help` is instant.
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


def stores() -> Stores:
    from dacapo.store import Stores

    return Stores.from_options()


class Ticker:
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
                f"loss {p.loss:.4f}  {_shares(p)}  ETA {left}",
                final=p.iteration == p.num_iterations,
            )


def _shares(p: Progress) -> str:
    """Where the time goes: a training that waits for data wants more workers, not a faster network."""
    return " ".join(f"{name} {share:.0%}" for name, share in p.shares.items())


def _bar(done: int, total: int, width: int = 20) -> str:
    filled = width * done // max(1, total)
    return "█" * filled + "░" * (width - filled)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {seconds} s" if minutes else f"{seconds} s"


_OUTPUT: list[Callable[[Any], Any]] = [
    click.option("-o", "--output", help="Where it goes."),
    click.option("-roi", "--roi", "--output_roi", metavar="[a:b,c:d,e:f]", help="Region, in voxels of the output."),
    click.option(
        "-w", "--workers", "--num_workers", "--num-workers", type=click.IntRange(0), default=2, show_default=True,
        help="Processes; 0 uses this one.",
    ),
    click.option("-ow", "--overwrite", is_flag=True, help="Replace what something else wrote there."),
]  # fmt: skip
_UPSTREAM: list[Callable[[Any], Any]] = [
    click.option("-r", "--run-name", "--run_name", help="The run, instead of NAME."),
    click.option("-ic", "--input_container", "--input-container", help="With -id, instead of RAW."),
    click.option("-id", "--input_dataset", "--input-dataset", help="The array in that container."),
    click.option("-op", "--output_path", "--output-path", help="Instead of -o: a folder, for {input}.zarr in it."),
]


def _decorated(command: Any, options: list[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def with_output(command: Any) -> Any:
    return _decorated(command, _OUTPUT)


def with_upstream_places(command: Any) -> Any:
    """The options with which upstream's commands name run, input and output."""
    return _decorated(command, _UPSTREAM)


run_name = click.option("-r", "--run-name", "--run_name", help="The run, instead of NAME.")


def filled(given: tuple[str, ...], **named: str | None) -> list[str]:
    """Positional arguments, for what no option names, in order; UsageError for too few or too many."""
    missing = [name for name, value in named.items() if value is None]
    if len(given) > len(missing):
        raise click.UsageError(f"unexpected argument {given[len(missing)]!r}")
    if len(given) < len(missing):
        raise click.UsageError(f"missing argument {missing[len(given)]!r}")
    values = iter(given)
    return [next(values) if value is None else value for value in named.values()]


def input_volume(container: str | None, dataset: str | None) -> str | None:
    """The path of the array that -ic and -id name."""
    from dacapo.upstream_calls import volume

    if dataset is not None and container is None:
        raise click.UsageError("-id needs -ic: the container that the dataset is in")
    return None if container is None else volume(container, dataset or "")


def assignment(text: str) -> tuple[str, Any]:
    """`name=value`, with the value as YAML has it."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text}: expected NAME=VALUE")
    return name.strip(), yaml.safe_load(value)


def region(text: str | None) -> Any:
    """`[0:10,0:20,5:30]` in voxels."""
    from dacapo.geometry import parse_roi

    return None if text is None else parse_roi(text)
