"""The command that writes dacapo.yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dacapo.cli.group import cli


@cli.command()
@click.option("--runs-base-dir", "--runs_base_dir", help="Folder of all runs.")
@click.option("--type", "kind", type=click.Choice(["files", "mongo"]), help="How configs and stats are kept.")
@click.option("--mongo-db-host", "--mongo_db_host", help="Such as mongodb://host:27017; for type mongo.")
@click.option("--mongo-db-name", "--mongo_db_name", help="Name of the database; for type mongo.")
@click.option("--compute-context", type=click.Choice(["LocalTorch", "Bsub"]), help="Where work runs.")
@click.option("--queue", help="Queue of a Bsub context.")
@click.option("-o", "--output", default="dacapo.yaml", show_default=True, type=click.Path(dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
def config(
    runs_base_dir: str | None, kind: str | None, mongo_db_host: str | None, mongo_db_name: str | None,
    compute_context: str | None, queue: str | None, output: str, overwrite: bool,
) -> None:  # fmt: skip
    """Write dacapo.yaml, which says where runs are kept and where work runs. In a terminal, asks for what is not given."""
    import yaml

    from dacapo.compute_context import ComputeContext
    from dacapo.errors import ConfigError
    from dacapo.options import DaCapoConfig
    from dacapo.store.files import write_text

    path = Path(output)
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already: --overwrite replaces it, -o writes another file")
    if sys.stdin.isatty():
        kind = kind or click.prompt("Keep configs and stats in", type=click.Choice(["files", "mongo"]), default="files")
        runs_base_dir = runs_base_dir or click.prompt("Folder of all runs", default="~/dacapo")
        if kind == "mongo":
            mongo_db_host = mongo_db_host or click.prompt("Host of MongoDB", default="mongodb://localhost:27017")
            mongo_db_name = mongo_db_name or click.prompt("Name of the database", default="dacapo")
    context = {"queue": queue} if queue else {}
    fields: dict[str, Any] = {
        "type": kind, "runs_base_dir": runs_base_dir, "mongo_db_host": mongo_db_host, "mongo_db_name": mongo_db_name,
        "compute_context": {"type": compute_context or "LocalTorch", "config": context},
    }  # fmt: skip
    fields = {name: value for name, value in fields.items() if value is not None}
    DaCapoConfig.from_dict(fields, "options")
    ComputeContext.from_dict({"type": fields["compute_context"]["type"], **context}, "compute_context")
    write_text(path, yaml.safe_dump(fields, sort_keys=False))
    click.echo(f"wrote {path}")
