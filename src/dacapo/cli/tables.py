"""Commands that bring things in: datasplits from tables, and what upstream left on disk."""

from __future__ import annotations

from typing import Any

import click

from dacapo.cli.group import cli, stores


@cli.command("import-upstream")
@click.argument("runs_base_dir", type=click.Path(exists=True, file_okay=False))
@click.option("--run", "runs", multiple=True, metavar="NAME", help="This run alone; may be given again.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="A checkpoint file for that one run.")
def import_upstream(runs_base_dir: str, runs: tuple[str, ...], weights: str | None) -> None:
    """Bring in runs that janelia-cellmap/dacapo keeps in RUNS_BASE_DIR, which is only read."""
    from dacapo.import_upstream import import_upstream

    done = import_upstream(runs_base_dir, runs, weights=weights, stores=stores())
    for found in done:
        click.echo(f"{found.run}: {'; '.join(found.brought) or 'nothing'}")
        for line in (*found.left, *([f"not brought in: {found.error}"] if found.error else [])):
            click.echo(f"  {line}")
    failed = sum(found.error is not None for found in done)
    if failed:
        raise click.ClickException(f"{failed} of {len(done)} runs could not be brought in")


@cli.command()
@click.argument("table", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The YAML that is written.")
@click.option("--input-resolution", required=True, metavar="Z,Y,X", help="Voxel size of raw (nm), such as 8,8,8.")
@click.option("--output-resolution", required=True, metavar="Z,Y,X", help="Voxel size of the ground truth (nm).")
@click.option("--targets", metavar="a,b", help="Classes, in the order of the channels; all that are named by default.")
@click.option("--name", help="Name of the datasplit; the table's by default.")
@click.option("--segmentation-type", type=click.Choice(["semantic", "instance"]), default="semantic", show_default=True)
@click.option("--raw-min", type=float, default=0, show_default=True, help="The intensity that becomes 0.")
@click.option("--raw-max", type=float, default=255, show_default=True, help="The intensity that becomes 1.")
@click.option("--binarize", is_flag=True, help="All ids of a class become 1.")
@click.option("--negative-class", is_flag=True, help="Where a named class is, the classes not named are absent.")
@click.option("--max-validation-volume", type=click.IntRange(1), help="Crop validation volumes to so many voxels.")
@click.option("--min-training-volume", type=click.IntRange(0), default=8000, show_default=True, help="In voxels.")
def datasplit(
    table: str, output: str, input_resolution: str, output_resolution: str, targets: str | None, binarize: bool,
    negative_class: bool, max_validation_volume: int | None, min_training_volume: int, **options: Any,
) -> None:  # fmt: skip
    """Make a datasplit of the volumes in TABLE.csv: train|val, raw_container, raw_dataset, gt_container,
    gt_dataset[class1&class2]."""
    from dacapo.summary import write_datasplit

    outcomes = write_datasplit(
        table, output, _lengths(input_resolution), _lengths(output_resolution),
        targets=[t.strip() for t in targets.split(",")] if targets else None, binarize_gt=binarize,
        use_negative_class=negative_class, max_validation_volume_size=max_validation_volume,
        min_training_volume_size=min_training_volume, **options,
    )  # fmt: skip
    for outcome in outcomes:
        click.echo(str(outcome))
    click.echo(f"wrote {output}")


def _lengths(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{text}: expected a voxel size (nm) per axis, such as 8,8,8") from None
