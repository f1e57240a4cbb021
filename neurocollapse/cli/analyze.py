"""`neurocollapse analyze` and `neurocollapse layers`: what a model's layers do, and what can be hooked in it."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_batch, check_folders, device_of, pair_of, running
from neurocollapse.cli.options import (
    CheckpointOption,
    ClassesOption,
    DataOption,
    HaltOption,
    IgnoreIndex,
    ImageSize,
    LabelsOption,
    LengthOption,
    LimitOption,
    LinesOption,
    ModelClasses,
    ModelOption,
    Seed,
    SplitOption,
)
from neurocollapse.cli.tokens import (
    BATCH,
    TOKEN_BATCH,
    TokenOptions,
    check_tokens,
    chosen_classes,
    label_options,
    open_samples,
)
from neurocollapse.support.checks import MAX_CLASSES
from neurocollapse.support.choices import Calls, Mode, NonFinite, PoolMode, Precision, Probe, Weighting

if TYPE_CHECKING:
    import xarray as xr


def analyze(
    model: ModelOption,
    data_spec: DataOption,
    checkpoint: CheckpointOption = None,
    model_classes: ModelClasses = None,
    seed: Seed = 0,
    split: SplitOption = "train",
    image_size: ImageSize = None,
    limit: LimitOption = None,
    labels: LabelsOption = None,
    ignore_index: IgnoreIndex = None,
    classes: ClassesOption = None,
    length: LengthOption = None,
    lines: LinesOption = False,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layer name, glob, !name or preset; repeat for more. Default: leaves.")
    ] = None,
    quantities: Annotated[
        str | None, typer.Option(help="Quantities or families, separated by commas. Default: all that cost no more.")
    ] = None,
    pool: Annotated[PoolMode, typer.Option(help="How positions become one row per sample, or one row each.")] = "auto",
    calls: Annotated[Calls, typer.Option(help="Which calls of a module that is called several times.")] = "all",
    include_input: Annotated[bool, typer.Option(help="Count the network's input as layer 0.")] = False,
    halt: HaltOption = False,
    num_classes: Annotated[
        int | None, typer.Option(min=1, max=MAX_CLASSES, help="Classes of the data. Default: what it says.")
    ] = None,
    weighting: Annotated[
        Weighting | None, typer.Option(help="How classes of different size count. Default: equal, saying so.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Mode of the model while it is measured.")] = "eval",
    precision: Annotated[Precision, typer.Option(help="Precision of the running state.")] = "single",
    non_finite: Annotated[NonFinite, typer.Option(help="What to do with NaN or infinite features.")] = "raise",
    max_memory: Annotated[float | None, typer.Option(help="GiB that the running state may take.")] = None,
    state_bytes: Annotated[
        Literal["auto", "16", "12", "8"],
        typer.Option(help="Bytes of running state for each class and feature; auto: the most that fit."),
    ] = "auto",
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder on a disk for the running state, instead of memory.")
    ] = None,
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: each process keeps a part of every layer's features.")
    ] = False,
    uncertainty: Annotated[bool, typer.Option(help="Add 95 % intervals of D, its ratios and slope.")] = False,
    ood: Annotated[str | None, typer.Option(help="Other data, like --data: how they differ by NC5 and NECO.")] = None,
    probes: Annotated[bool, typer.Option(help="Add probe accuracies and ranks of every layer.")] = False,
    probe: Annotated[Probe | None, typer.Option(help="Linear probe that --probes fits. Default: logistic.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples in a batch. Default: 128; of sequences of tokens, 8.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …  Default: cuda where there is one.")] = None,
    resume: Annotated[Path | None, typer.Option(help="File in which the finished part is kept.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for other ranks under torchrun.")] = 600.0,
    output: Annotated[Path, typer.Option(help="NetCDF file to write.")] = Path("analysis.nc"),
    report: Annotated[Path | None, typer.Option(help="HTML report to write as well.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress: a bar on a terminal, lines in a log.")] = True,
) -> None:
    """Measure every layer of a model on labelled data."""
    from neurocollapse.data.labelled import check_num_classes  # slow import, needed only here

    if layers and not all(layers):
        raise ValueError("--layers names nothing; give a layer, glob or preset, or leave it out")
    if max_memory is not None and not 0 < max_memory < float("inf"):
        raise ValueError(f"--max-memory must be a positive number of GiB, got {max_memory:g}")
    chosen_probe, chosen_quantities = _chosen_probe(probes, probe), _chosen_quantities(quantities)
    wanted_classes, tokens = chosen_classes(classes), TokenOptions(labels, ignore_index, length, lines)
    check_folders(output, report)
    with nc.statistics.process_group(timeout=timeout) as (rank, world):
        if shard and world == 1:
            raise ValueError("--shard divides the features among processes; start some with torchrun, or leave it out")
        place = device_of(device, rank)
        samples, tokenizer = open_samples(data_spec, model, tokens, split=split, image_size=image_size, limit=limit)
        if num_classes is not None and isinstance(samples, nc.data.Labelled):
            check_num_classes(num_classes, samples.labels, f"--num-classes is {num_classes}")
        batch_size = batch_size or (TOKEN_BATCH if isinstance(samples, nc.data.TokenData) else BATCH)
        others = None if ood is None else nc.data.open(ood, split=split, image_size=image_size, limit=limit)
        check_batch(samples, batch_size)
        if others is not None:
            check_batch(others, batch_size)
        network = nc.models.open(model, checkpoint=checkpoint, num_classes=model_classes, seed=seed).to(place)
        if isinstance(samples, nc.data.TokenData):
            check_tokens(network, samples, tokenizer)
        if rank == 0 and checkpoint is None and model.startswith(("torchvision:", "timm:")):
            warnings.warn(f"{model} has random weights; pass --checkpoint for trained ones", stacklevel=1)
        with running(model, samples):
            dataset = nc.analyze(
                network,
                nc.data.shard(samples, rank, world).loader(batch_size),
                **label_options(samples, tokens),
                quantities=chosen_quantities,
                weighting=weighting,
                uncertainty=uncertainty,
                probes=chosen_probe,
                ood_loader=None if others is None else others.loader(batch_size),
                layers=layers or "leaves",
                pool=pool,
                calls=calls,
                include_input=include_input,
                halt=halt,
                num_classes=num_classes,
                classes=wanted_classes,
                mode=mode,
                precision=precision,
                non_finite=non_finite,
                max_memory=None if max_memory is None else max_memory * 2**30,
                state_bytes="auto" if state_bytes == "auto" else int(state_bytes),
                state_dir=state_dir,
                device=place,
                resume=resume,
                distributed="shard" if shard else world > 1,
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
    network = nc.models.open(model, checkpoint=checkpoint, num_classes=model_classes)
    if data_spec is None:
        print(nc.layers(network))
        return
    samples = nc.data.open(data_spec, image_size=image_size, limit=1)
    example, _ = pair_of(next(iter(samples.loader(1)), None), samples.name)
    with running(model, samples):
        found = nc.layers(network, example)
    print(found)


def _chosen_probe(probes: bool, probe: Probe | None) -> bool | Probe:
    """What `neurocollapse.analyze` takes as `probes`."""
    if probe is not None and not probes:
        raise ValueError("`--probe` is for probes only; pass --probes as well, or leave it out")
    return probe if probe is not None else probes


def _chosen_quantities(quantities: str | None) -> list[str] | None:
    """What `neurocollapse.analyze` takes as `quantities`; a name that comes twice is a slip."""
    if quantities is None:
        return None
    names = [name for part in quantities.split(",") if (name := part.strip())]
    if not names:
        raise ValueError("--quantities names nothing; give names with commas between, or leave it out")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--quantities names {twice!r} twice; name each once")
    return names


def _finish(named: "dict[str, xr.Dataset]", dataset: "xr.Dataset", output: Path, report_path: Path | None) -> None:
    """Write the results and say where they are."""
    nc.save(dataset, output)
    if report_path is not None:
        nc.report(named, report_path)
    print(f"{nc.table(dataset)}\n\nanalysis: {output.resolve()}")
    if report_path is not None:
        print(f"report:   {report_path.resolve()}")
