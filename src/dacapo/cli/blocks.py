"""Commands that run a user's own code block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dacapo.cli.group import Ticker, cli, region

_ANY = {"ignore_unknown_options": True, "allow_extra_args": True}


def _with_places(command: Any) -> Any:
    for option in reversed(
        [
            click.option(
                "-ic", "--input_container", "--input-container", required=True, help="Container of the input."
            ),
            click.option("-id", "--input_dataset", "--input-dataset", required=True, help="The array in it."),
            click.option("-oc", "--output_container", "--output-container", required=True, help="A .zarr container."),
            click.option("-od", "--output_dataset", "--output-dataset", required=True, help="The array to make in it."),
            click.option("-tr", "--total_roi", "--total-roi", metavar="[a:b,c:d,e:f]", help="Voxels; all by default."),
            click.option("-rr", "--read_roi_size", "--read-roi-size", metavar="[z,y,x]", help="Voxels a block reads."),
            click.option(
                "-wr",
                "--write_roi_size",
                "--write-roi-size",
                required=True,
                metavar="[z,y,x]",
                help="Voxels it writes.",
            ),
            click.option("-nw", "--num_workers", "--num-workers", type=click.IntRange(0), default=2, show_default=True),
            click.option("-mr", "--max_retries", "--max-retries", type=click.IntRange(0), default=2, show_default=True),
            click.option("-t", "--timeout", type=float, help="Seconds after which a block counts as stuck."),
            click.option("-ow", "--overwrite/--no-overwrite", default=True, show_default=True),
        ]
    ):
        command = option(command)
    return command


@cli.command("run-blockwise", context_settings=_ANY)
@_with_places
@click.option("-w", "--worker_file", "--worker-file", required=True, help="File, module:function, threshold or argmax.")
@click.option(
    "-co", "--channels_out", "--channels-out", type=click.IntRange(1), help="Channels; no such axis if left out."
)
@click.option("-dt", "--output_dtype", "--output-dtype", default="uint8", show_default=True)
@click.pass_context
def run_blockwise(
    context: click.Context, worker_file: str, channels_out: int | None, output_dtype: str, overwrite: bool, **how: Any
) -> None:
    """Run a worker over all blocks of an array: a file with spawn_worker(input_array_identifier,
    output_array_identifier, ...), which returns a function of one block. Options that are not listed, such as
    --threshold 0.5, go to it. All sizes are voxels."""
    import numpy as np

    from dacapo.arrays import create_array, open_array
    from dacapo.arrays.paths import LocalArrayIdentifier
    from dacapo.blockwise import chunk_of
    from dacapo.blockwise import run_blockwise as run
    from dacapo.errors import BlockwiseError

    source = open_array(_input(how))
    total, read, write = _regions(source, how)
    try:
        dtype = np.dtype(output_dtype)
    except TypeError:
        raise click.UsageError(f"--output_dtype {output_dtype}: no such type; uint8, float32, ...") from None
    channels = () if channels_out is None else (channels_out,)
    chunk = [chunk_of(w, n) for w, n in zip(write.shape, source.spatial_shape, strict=True)]
    place = LocalArrayIdentifier(Path(how["output_container"]), how["output_dataset"])
    create_array(
        place.path, shape=(*channels, *source.spatial_shape), dtype=dtype, grid=source.grid, overwrite=overwrite,
        axis_names=("c^",) * len(channels) + source.grid.axes, chunk=(*channels, *chunk),
    )  # fmt: skip
    done = run(
        worker_file, total, read, write, how["num_workers"], how["max_retries"], how["timeout"], None,
        input_array_identifier=LocalArrayIdentifier(Path(how["input_container"]), how["input_dataset"]),
        output_array_identifier=place, **_extra(context.args),
    )  # fmt: skip
    if not done:
        raise BlockwiseError("some blocks failed: the log above says which and why")
    click.echo(f"wrote {place.path}")


@cli.command("segment-blockwise", context_settings=_ANY)
@_with_places
@click.option(
    "-sf", "--segment_function_file", "--segment-function-file", required=True,
    help="File, module:function, watershed, threshold or argmax.",
)  # fmt: skip
@click.option(
    "-c", "--context", "around", metavar="[z,y,x]", help="Voxels around a block; (read - write) / 2 by default."
)
@click.pass_context
def segment_blockwise(
    context: click.Context, segment_function_file: str, around: str | None, overwrite: bool, **how: Any
) -> None:
    """Segment an array block by block into one segmentation with global ids: a file with
    segment_function(input_array, block, **parameters). Options that are not listed, such as --bias 0.4, go to it.
    All sizes are voxels."""
    from dacapo.arrays import open_array
    from dacapo.blockwise import segment_blockwise as segment
    from dacapo.blockwise.scheduler import block_sizes

    source = open_array(_input(how))
    total, read, write = _regions(source, how)
    output, ticker = Path(how["output_container"]) / how["output_dataset"], Ticker()
    report = segment(
        segment_function_file, None if around is None else block_sizes(around, source.spatial_dims, "--context", 0),
        total, read, write, how["num_workers"], how["max_retries"], how["timeout"],
        input_array_identifier=_input(how), output_array_identifier=output, parameters=_extra(context.args),
        overwrite=overwrite, progress=lambda done, n: ticker.blocks("segment", done, n),
    )  # fmt: skip
    click.echo(f"{report.objects} objects in {output}")


def _input(how: dict[str, Any]) -> str:
    from dacapo.upstream_calls import volume

    return volume(how["input_container"], how["input_dataset"])


def _regions(source: Any, how: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What is written in all, what a block reads, and what it writes."""
    from dacapo.blockwise.scheduler import block_sizes
    from dacapo.errors import GeometryError
    from dacapo.geometry import Coordinate, Roi

    total = source.roi if how["total_roi"] is None else region(how["total_roi"])
    if total.dims != source.spatial_dims or not source.roi.contains(total):
        raise GeometryError(
            f"--total_roi {how['total_roi']}: expected a region inside {tuple(source.spatial_shape)} voxels"
        )
    write = block_sizes(how["write_roi_size"], source.spatial_dims, "--write_roi_size")
    read = block_sizes(how["read_roi_size"], source.spatial_dims, "--read_roi_size") if how["read_roi_size"] else write
    if any((r - w) % 2 or r < w for r, w in zip(read, write, strict=True)):
        raise GeometryError(
            f"--read_roi_size {tuple(read)}: expected an even number of voxels more than {tuple(write)}"
        )
    corner = Coordinate(-(r - w) // 2 for r, w in zip(read, write, strict=True))
    return total, Roi(corner, read), Roi((0,) * total.dims, write)


def _extra(arguments: list[str]) -> dict[str, Any]:
    """`--key value` pairs, with values as YAML has them."""
    import yaml

    if len(arguments) % 2 or any(not key.startswith("--") for key in arguments[::2]):
        raise click.UsageError(f"{' '.join(arguments)}: expected --name value pairs for the function")
    return {
        k.lstrip("-").replace("-", "_"): yaml.safe_load(v) for k, v in zip(arguments[::2], arguments[1::2], strict=True)
    }
