"""`neurocollapse track`: the checkpoints of a run as its steps."""

import glob
from pathlib import Path
from typing import Annotated

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_batch, check_folders, device_of, running
from neurocollapse.cli.options import (
    DataOption,
    HaltOption,
    ImageSize,
    LimitOption,
    ModelClasses,
    ModelOption,
    SplitOption,
)
from neurocollapse.support.text import visible


def track(
    model: ModelOption,
    data_spec: DataOption,
    checkpoints: Annotated[
        list[str],
        typer.Option(
            help="Weights in the order of training: files, folders or patterns such as 'runs/step*.safetensors', which "
            "are ordered by their numbers. Repeat for more."
        ),
    ],
    model_classes: ModelClasses = None,
    split: SplitOption = "train",
    image_size: ImageSize = None,
    limit: LimitOption = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layer name, glob, !name or preset; repeat for more. Default: leaves.")
    ] = None,
    quantities: Annotated[
        list[str] | None, typer.Option(help="Quantity or family; repeat for more. Default: all that cost no more.")
    ] = None,
    halt: HaltOption = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 128,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …  Default: cuda where there is one.")] = None,
    output: Annotated[Path, typer.Option(help="File of the run; checkpoints that it holds are not read again.")] = Path(
        "run.nc"
    ),
    report: Annotated[Path | None, typer.Option(help="HTML report to write as well.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress: a bar on a terminal, lines in a log.")] = True,
) -> None:
    """Measure every layer at each checkpoint of a run on labelled data."""
    check_folders(output, report)
    paths = [path for pattern in checkpoints for path in _found(pattern)]
    place = device_of(device, 0)
    samples = nc.data.open(data_spec, split=split, image_size=image_size, limit=limit)
    check_batch(samples, batch_size)
    network = nc.models.open(model, checkpoint=None, num_classes=model_classes).to(place)
    with running(model, samples):
        run = nc.track_checkpoints(
            network,
            paths,
            samples.loader(batch_size),
            path=output,
            progress=progress,
            layers=layers or "leaves",
            quantities=quantities,
            halt=halt,
            device=place,
        )
    if report is not None:
        nc.report({model: run}, report)
    print(f"{nc.table(run)}\n\nrun:    {output.resolve()}")
    if report is not None:
        print(f"report: {report.resolve()}")


def _found(pattern: str) -> list[Path]:
    """The file or folder of that name, or those that fit a pattern."""
    from neurocollapse.tracking.checkpoints import in_natural_order  # slow import, needed only here

    if Path(pattern).exists():
        return [Path(pattern)]
    found = in_natural_order(map(Path, glob.glob(pattern)))
    if not found:
        raise ValueError(f"--checkpoints {visible(pattern)!r} matches no file; check the folder and the pattern")
    return found
