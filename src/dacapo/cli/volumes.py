"""Commands of volumes: predict, segment, apply, evaluate."""

from __future__ import annotations

import click

from dacapo.cli.group import Ticker, cli, filled, input_volume, region, stores, with_output, with_upstream_places


@cli.command()
@click.argument("places", nargs=-1, metavar="NAME RAW")
@with_output
@with_upstream_places
@click.option("-i", "--iteration", type=int, help="Weights of this iteration; the best by default.")
@click.option("-c", "--criterion", help="Best by what.")
@click.option(
    "-dt", "--dtype", "--output_dtype", type=click.Choice(["uint8", "float32"]), default="uint8", show_default=True
)
def predict(
    places: tuple[str, ...], output: str | None, roi: str | None, workers: int, overwrite: bool, run_name: str | None,
    input_container: str | None, input_dataset: str | None, output_path: str | None,
    iteration: int | None, criterion: str | None, dtype: str,
) -> None:  # fmt: skip
    """Predict the volume RAW with run NAME, blockwise: dacapo predict fly vol.zarr/raw -o out.zarr/prediction."""
    import dacapo
    from dacapo.predict import chosen_iteration
    from dacapo.upstream_calls import output_array

    name, raw = filled(places, NAME=run_name, RAW=input_volume(input_container, input_dataset))
    opened, ticker, wanted = stores(), Ticker(), region(roi)
    config = dacapo.load(name, opened)
    if output_path is not None:
        iteration = chosen_iteration(config, opened, iteration, criterion)
        output = output_array(config.name, iteration, input_container or raw, output_path)
    if output is None:
        raise click.UsageError("say where the prediction goes: -o OUT.zarr/prediction")
    report = dacapo.predict(
        config, raw, output, iteration=iteration, criterion=criterion, roi=wanted, workers=workers, dtype=dtype,
        overwrite=overwrite, stores=opened, progress=lambda done, total: ticker.blocks("predict", done, total),
    )  # fmt: skip
    click.echo(f"predicted {report.total} blocks to {output}")


@cli.command()
@click.argument("name")
@click.argument("prediction")
@with_output
@click.option("-c", "--criterion", help="Parameters that are best by what.")
@click.option("-p", "--parameters", metavar="a=1,b=2", help="These parameters instead of the best.")
def segment(
    name: str, prediction: str, output: str | None, roi: str | None, workers: int, overwrite: bool,
    criterion: str | None, parameters: str | None,
) -> None:  # fmt: skip
    """Segment a PREDICTION of run NAME, blockwise, with the best parameters."""
    import dacapo
    from dacapo.upstream_calls import parameters_of

    if output is None:
        raise click.UsageError("say where the segmentation goes: -o OUT.zarr/labels")
    opened, wanted = stores(), region(roi)
    config = dacapo.load(name, opened)
    dacapo.segment(
        config, prediction, output, parameters=parameters_of(config.task, parameters), criterion=criterion,
        roi=wanted, workers=workers, overwrite=overwrite, stores=opened, progress=Ticker().blocks,
    )  # fmt: skip
    click.echo(f"segmented to {output}")


@cli.command()
@click.argument("places", nargs=-1, metavar="NAME RAW")
@with_output
@with_upstream_places
@click.option("-c", "--criterion", help="Best by what; the task's main criterion by default.")
@click.option(
    "-d", "-vd", "--dataset", "--validation_dataset", "--validation-dataset",
    help="Best on which validation dataset; the first by default.",
)  # fmt: skip
@click.option("-i", "--iteration", type=int, help="This iteration instead of the best.")
@click.option("-p", "--parameters", metavar="a=1,b=2", help="These parameters instead of the best.")
@click.option(
    "-dt", "--dtype", "--output_dtype", type=click.Choice(["uint8", "float32"]), default="uint8", show_default=True,
    help="Of the prediction.",
)  # fmt: skip
def apply(
    places: tuple[str, ...], output: str | None, roi: str | None, workers: int, overwrite: bool, run_name: str | None,
    input_container: str | None, input_dataset: str | None, output_path: str | None, criterion: str | None,
    dataset: str | None, iteration: int | None, parameters: str | None, dtype: str,
) -> None:  # fmt: skip
    """Predict and segment the volume RAW with the best of run NAME: dacapo apply fly vol.zarr/raw -o out.zarr."""
    import dacapo
    from dacapo.upstream_calls import output_container

    name, raw = filled(places, NAME=run_name, RAW=input_volume(input_container, input_dataset))
    if output_path is not None:
        output = output_container(input_container or raw, output_path)
    if output is None:
        raise click.UsageError("say where prediction and objects go: -o OUT.zarr")
    opened, wanted = stores(), region(roi)
    done = dacapo.apply(
        dacapo.load(name, opened), raw, output, criterion=criterion, dataset=dataset, iteration=iteration,
        parameters=parameters, roi=wanted, workers=workers, overwrite=overwrite, dtype=dtype, stores=opened,
        progress=Ticker().blocks,
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
@click.option("--classes", metavar="a,b,c", help="Names of the classes, to score each by itself instead of instances.")
def evaluate(
    segmentation: str, truth: str, mask: str | None, unlabelled: int | None, binary: bool, classes: str | None
) -> None:
    """Score a SEGMENTATION against ground truth."""
    import dacapo

    names = [name.strip() for name in classes.split(",")] if classes else None
    scores = dacapo.evaluate(segmentation, truth, mask=mask, unlabelled=unlabelled, binary=binary, classes=names)
    for criterion in scores.criteria:
        click.echo(f"{criterion:<40} {scores.value(criterion):.4f}")
