"""`neurocollapse verify`: a theorem held against a network; the exit code is the verdict."""

from pathlib import Path
from typing import Annotated

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_batch, check_folders, exit_code, pair_of, running
from neurocollapse.cli.options import (
    CheckpointOption,
    ImageSize,
    LimitOption,
    ModelClasses,
    Seed,
    SplitOption,
)
from neurocollapse.support.atomic import write


def verify(
    model: Annotated[
        str | None,
        typer.Option(help="As for analyze. Default: train the source's deep linear network and verify that."),
    ] = None,
    data_spec: Annotated[str | None, typer.Option("--data", help="As for analyze.")] = None,
    checkpoint: CheckpointOption = None,
    model_classes: ModelClasses = None,
    split: SplitOption = "train",
    image_size: ImageSize = None,
    limit: LimitOption = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative room for rounding around each bracket.")] = 1e-6,
    output_scale: Annotated[float, typer.Option(help="α, if the output is α W_L ⋯ W_1 x.")] = 1.0,
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option(help="JSON file to write: everything, for machines.")] = None,
    output: Annotated[Path | None, typer.Option(help="NetCDF file to write: measurements and bounds.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
) -> None:
    """Certify progressive compression of the affine maps that a network ends with; the exit code is the verdict.

    0: every layer provably compresses. 1: one provably spreads the classes. 2: bad input. 3: undecided.
    """
    check_folders(json, output, report)
    if model is None:
        if data_spec is not None or checkpoint is not None:
            raise typer.BadParameter("give the network with --model", param_hint="--data")
        from neurocollapse.experiments import progressive_theorem  # scikit-learn and matplotlib, needed only here

        verification, name = progressive_theorem(seed=seed), "deep linear network"
    else:
        if data_spec is None:
            raise typer.BadParameter("give the labelled data with --data", param_hint="--model")
        samples = nc.data.open(data_spec, split=split, image_size=image_size, limit=limit)
        check_batch(samples, len(samples))
        network = nc.models.open(model, checkpoint=checkpoint, num_classes=model_classes, seed=seed)
        inputs, labels = pair_of(next(iter(samples.loader(max(1, len(samples)))), None), samples.name)
        with running(model, samples):
            verification = nc.verify(network, inputs, labels, tolerance=tolerance, output_scale=output_scale)
        name = model
    if json is not None:
        write(json, verification.to_json(indent=1))
    if output is not None:
        nc.save(verification.to_dataset(), output)
    if report is not None:
        nc.report({name: verification}, report)
    print(verification)
    raise typer.Exit(exit_code(verification.status))
