"""The command line: arguments in, library calls, exit codes out."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import torch
import typer
import xarray as xr

import neurocollapse as nc
from neurocollapse import data, models
from neurocollapse.cli_options import (
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
    Seed,
    Split,
    SplitOption,
    Weighting,
)
from neurocollapse.report.numbers import number
from neurocollapse.statistics import process_group
from neurocollapse.table import aligned

EXIT_DONE, EXIT_VIOLATED, EXIT_BAD_INPUT, EXIT_UNMET = 0, 1, 2, 3
EXIT_INTERRUPTED = 130
EXIT_CODES = {"holds": EXIT_DONE, "violated": EXIT_VIOLATED, "assumptions unmet": EXIT_UNMET}

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer does not export its own base classes
_CommandError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Hook any PyTorch model and measure how its layers compress and separate classes.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"neurocollapse {nc.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
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
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 128,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …  Default: cuda where there is one.")] = None,
    resume: Annotated[Path | None, typer.Option(help="File in which the finished part is kept.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for other ranks under torchrun.")] = 600.0,
    output: Annotated[Path, typer.Option(help="NetCDF file to write.")] = Path("analysis.nc"),
    report: Annotated[Path | None, typer.Option(help="HTML report to write as well.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar on a terminal.")] = True,
) -> None:
    """Measure every layer of a model on labelled data."""
    _check_folders(output, report)
    with process_group(timeout=timeout) as (rank, world):
        place = _device(device, rank)
        samples = _samples(data_spec, split, image_size, limit)
        network = models.open(model, checkpoint=checkpoint, num_classes=model_classes, seed=seed).to(place)
        if rank == 0 and checkpoint is None and model.startswith(("torchvision:", "timm:")):
            warnings.warn(f"{model} has random weights; pass --checkpoint for trained ones", stacklevel=1)
        dataset = nc.analyze(
            network,
            data.shard(samples, rank, world).loader(batch_size),
            weighting=weighting.value,
            probes=probes,
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


@app.command("layers")
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


@app.command()
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Results to show, from `analyze`. Default: run the main job.")
    ] = None,
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    analysis: Annotated[Path, typer.Option(help="NetCDF file that the main job writes.")] = Path("analysis.nc"),
    seed: Annotated[int, typer.Option(help="Seed of the main job's networks.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show progress on a terminal.")] = True,
) -> None:
    """Train two networks on digits and report on all their layers, or report on saved results."""
    _check_folders(output, *([] if files else [analysis]))
    if files:
        print(f"report: {nc.report(_opened(files), output).resolve()}")
        return
    from neurocollapse.experiments import first_look  # scikit-learn and matplotlib, needed only here

    look = first_look(seed=seed, progress=progress)
    results = {**look.analyses, **look.verifications}
    nc.report(results, output, title="How layers separate and compress", figures=look.figures)
    nc.save(xr.DataTree.from_dict(dict(look.analyses)), analysis)
    for name, dataset in look.analyses.items():
        print(f"{name}\n{summary(dataset)}\n")
    for name, verification in look.verifications.items():
        print(f"{name}: {verification.title.lower()}: {verification.status}")
    print(f"\nanalysis: {analysis.resolve()}\nreport:   {output.resolve()}")


@app.command()
def verify(
    model: Annotated[
        str | None,
        typer.Option(help="As for analyze. Default: train the source's deep linear network and verify that."),
    ] = None,
    data_spec: Annotated[str | None, typer.Option("--data", help="As for analyze.")] = None,
    checkpoint: CheckpointOption = None,
    model_classes: ModelClasses = None,
    split: SplitOption = Split.TRAIN,
    image_size: ImageSize = None,
    limit: LimitOption = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative room for rounding around each bracket.")] = 1e-6,
    output_scale: Annotated[float, typer.Option(help="α, if the output is α W_L ⋯ W_1 x.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the default network, or of random weights.")] = 0,
    json: Annotated[Path | None, typer.Option(help="JSON file to write: everything, for machines.")] = None,
    output: Annotated[Path | None, typer.Option(help="NetCDF file to write: measurements and bounds.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
) -> None:
    """Verify progressive compression on a network's linear layers; the exit code is the verdict.

    0: every verdict holds. 1: a bound is violated. 2: bad input. 3: assumptions unmet.
    """
    _check_folders(json, output, report)
    if model is None:
        if data_spec is not None or checkpoint is not None:
            raise typer.BadParameter("give the network with --model", param_hint="--data")
        from neurocollapse.experiments import progressive_theorem  # scikit-learn and matplotlib, needed only here

        verification, name = progressive_theorem(seed=seed), "deep linear network"
    else:
        if data_spec is None:
            raise typer.BadParameter("give the labelled data with --data", param_hint="--model")
        samples = _samples(data_spec, split, image_size, limit)
        network = models.open(model, checkpoint=checkpoint, num_classes=model_classes, seed=seed)
        inputs, labels = next(iter(samples.loader(len(samples))))
        verification = nc.verify(network, inputs, labels, tolerance=tolerance, output_scale=output_scale)
        name = model
    print(verification)
    if json is not None:
        json.write_text(verification.to_json(indent=1), encoding="utf-8")
    if output is not None:
        nc.save(verification.to_dataset(), output)
    if report is not None:
        nc.report({name: verification}, report)
    raise typer.Exit(EXIT_CODES[verification.status])


def summary(dataset: xr.Dataset) -> str:
    """The numbers of every layer as a plain table."""
    columns = {
        "compression": "D",
        "decay_ratio": "D ratio",
        "separation": "S",
        "discrimination": "discrimination",
    }
    rows = [
        [
            str(layer.item()),
            str(dataset["module_type"].values[index]),
            str(dataset["feature_dimension"].values[index]),
            *(number(dataset[name].values[index]) for name in columns),
        ]
        for index, layer in enumerate(dataset["layer"])
    ]
    headings = ["layer", "type", "features", *columns.values()]
    return aligned(headings, rows, numbers=range(2, len(headings)))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; a mistake of the user's becomes one line on standard error and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(args=arguments, prog_name="neurocollapse", standalone_mode=False)
    except _UsageError as error:
        code = _fail(f"{error.format_message()} (see neurocollapse --help)")
    except _CommandError as error:
        code = _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        print("neurocollapse: interrupted; what --resume FILE has kept is safe", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("NEUROCOLLAPSE_TRACEBACK"):
            raise
        code = _fail(_one_line(error))
    sys.exit(code or EXIT_DONE)


def _samples(spec: str, split: Split, image_size: int | None, limit: int | None) -> data.Labelled:
    """The data, or its first `limit` samples."""
    samples = data.open(spec, split=split.value, image_size=image_size)
    return samples if limit is None else samples.subset(range(min(limit, len(samples))))


def _finish(named: dict[str, xr.Dataset], dataset: xr.Dataset, output: Path, report_path: Path | None) -> None:
    """Write the results and say where they are."""
    nc.save(dataset, output)
    print(f"{summary(dataset)}\n\nanalysis: {output.resolve()}")
    if report_path is not None:
        print(f"report:   {nc.report(named, report_path).resolve()}")


def _opened(files: list[Path]) -> dict[str, xr.Dataset]:
    """Datasets by name from files of one or of several."""
    found: dict[str, xr.Dataset] = {}
    for path in files:
        results = nc.open(path)
        if isinstance(results, xr.DataTree):
            found |= {name: node.to_dataset() for name, node in results.children.items()}
        else:
            found[path.stem] = results
    return found


def _device(requested: str | None, rank: int) -> torch.device:
    """The device to run on: what was asked for, else the GPU of this rank, else the CPU."""
    if requested is None:
        return (
            torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
        )
    try:
        return torch.empty(0, device=requested).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {requested!r} cannot be used: {_first_line(error)}") from error


def _check_folders(*paths: Path | None) -> None:
    """Raise before any work is done if a result could not be written."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(f"cannot write {path}: it must be a file in a folder that exists")


def _fail(message: str) -> int:
    """Say what is wrong in one line."""
    print(f"neurocollapse: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _one_line(error: Exception) -> str:
    """An error as one line; those that are not ours carry their type and how to see more."""
    ours = isinstance(error, ValueError | TypeError | OSError | MemoryError)
    text = _first_line(error)
    return text if ours else f"{type(error).__name__}: {text} (NEUROCOLLAPSE_TRACEBACK=1 shows where)"


def _first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line on standard error."""
    print(f"neurocollapse: warning: {message}", file=file or sys.stderr)
