"""`neurocollapse analyze` and `neurocollapse layers`: what a model's layers do, and what can be hooked in it."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr

import neurocollapse as nc
from neurocollapse import data, models
from neurocollapse.cli.inputs import check_folders, device_of, samples_of
from neurocollapse.cli.options import (
    Calls,
    CheckpointOption,
    DataOption,
    ImageSize,
    LimitOption,
    Mode,
    ModelClasses,
    ModelOption,
    NonFinite,
    Precision,
    Probe,
    Seed,
    Split,
    SplitOption,
    Weighting,
)
from neurocollapse.report import table
from neurocollapse.statistics import process_group


def analyze(
    model: ModelOption,
    data_spec: DataOption,
    checkpoint: CheckpointOption = None,
    model_classes: ModelClasses = None,
    seed: Seed = 0,
    split: SplitOption = Split.TRAIN,
    image_size: ImageSize = None,
    limit: LimitOption = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layer name, glob, !name or preset; repeat for more. Default: leaves.")
    ] = None,
    pool: Annotated[str, typer.Option(help="auto, mean, max, flatten, positions, cls, last or tokens.")] = "auto",
    calls: Annotated[Calls, typer.Option(help="Which calls of a module that is called several times.")] = Calls.ALL,
    include_input: Annotated[bool, typer.Option(help="Count the network's input as layer 0.")] = False,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the data. Default: what it says.")] = None,
    weighting: Annotated[Weighting, typer.Option(help="Convention of the between-class part.")] = Weighting.EQUAL,
    mode: Annotated[Mode, typer.Option(help="Mode of the model while it is measured.")] = Mode.EVAL,
    precision: Annotated[Precision, typer.Option(help="Precision of the running state.")] = Precision.SINGLE,
    non_finite: Annotated[NonFinite, typer.Option(help="What to do with NaN or infinite features.")] = NonFinite.RAISE,
    max_memory: Annotated[float | None, typer.Option(help="GiB that the running state may take.")] = None,
    probes: Annotated[bool, typer.Option(help="Add probe accuracies and ranks of every layer.")] = False,
    probe: Annotated[Probe | None, typer.Option(help="Linear probe that --probes fits. Default: logistic.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 128,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …  Default: cuda where there is one.")] = None,
    resume: Annotated[Path | None, typer.Option(help="File in which the finished part is kept.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for other ranks under torchrun.")] = 600.0,
    output: Annotated[Path, typer.Option(help="NetCDF file to write.")] = Path("analysis.nc"),
    report: Annotated[Path | None, typer.Option(help="HTML report to write as well.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar on a terminal.")] = True,
) -> None:
    """Measure every layer of a model on labelled data."""
    chosen_probe = _chosen_probe(probes, probe)
    check_folders(output, report)
    with process_group(timeout=timeout) as (rank, world):
        place = device_of(device, rank)
        samples = samples_of(data_spec, split, image_size, limit)
        network = models.open(model, checkpoint=checkpoint, num_classes=model_classes, seed=seed).to(place)
        if rank == 0 and checkpoint is None and model.startswith(("torchvision:", "timm:")):
            warnings.warn(f"{model} has random weights; pass --checkpoint for trained ones", stacklevel=1)
        dataset = nc.analyze(
            network,
            data.shard(samples, rank, world).loader(batch_size),
            weighting=weighting.value,
            probes=chosen_probe,
            layers=layers or "leaves",
            pool=pool,
            calls=calls.value,
            include_input=include_input,
            num_classes=num_classes,
            mode=mode.value,
            precision=precision.value,
            non_finite=non_finite.value,
            max_memory=None if max_memory is None else max_memory * 2**30,
            device=place,
            resume=resume,
            distributed=world > 1,
            progress=progress and rank == 0,
        )
        if rank == 0:
            dataset.attrs |= {"data": samples.name, "world_size": world}
            _finish({model: dataset}, dataset, output, report)


def list_layers(
    model: ModelOption,
    data_spec: Annotated[str | None, typer.Option("--data", help="Data whose first sample shows the shapes.")] = None,
    checkpoint: CheckpointOption = None,
    model_classes: ModelClasses = None,
    image_size: ImageSize = None,
) -> None:
    """List what can be hooked in a model."""
    network = models.open(model, checkpoint=checkpoint, num_classes=model_classes)
    example = None
    if data_spec is not None:
        inputs, _ = next(iter(data.open(data_spec, image_size=image_size).loader(1)))
        example = inputs
    print(nc.layers(network, example))


def _chosen_probe(probes: bool, probe: Probe | None) -> Any:
    """What `neurocollapse.analyze` takes as `probes`."""
    if probe is not None and not probes:
        raise ValueError("`--probe` is for probes only; pass --probes as well, or leave it out")
    return probe.value if probe is not None else probes


def _finish(named: dict[str, xr.Dataset], dataset: xr.Dataset, output: Path, report_path: Path | None) -> None:
    """Write the results and say where they are."""
    nc.save(dataset, output)
    if report_path is not None:
        nc.report(named, report_path)
    print(f"{table(dataset)}\n\nanalysis: {output.resolve()}")
    if report_path is not None:
        print(f"report:   {report_path.resolve()}")
