"""Class moments of every layer in one pass over a loader."""

import json
import math
import operator
import time
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import Dataset, DistributedSampler, IterableDataset

from neurocollapse.hooks import Recorder
from neurocollapse.passes.checkpoint import Checkpoint, option_text, weight_digest
from neurocollapse.passes.loop import Run, callee_of, device_of, undisturbed
from neurocollapse.passes.moments import NON_FINITE, MomentStream, StreamOptions
from neurocollapse.statistics import MomentCollection, all_reduce, memory_limit
from neurocollapse.support.provenance import describe_run

MODES = ("eval", "train", "unchanged")
PRECISIONS = ("single", "double")


def collect(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Any = "leaves",
    pool: Any = "auto",
    num_classes: int | None = None,
    covariance: bool = False,
    device: torch.device | str | None = None,
    mode: str = "eval",
    non_finite: str = "raise",
    progress: bool = True,
    resume: str | PathLike[str] | None = None,
    calls: str = "all",
    output: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    include_input: bool = False,
    precision: str = "single",
    max_memory: float | None = None,
    distributed: bool = False,
) -> MomentCollection:
    """Class moments of every chosen layer, streamed over a loader at nearly the cost of the forward pass.

    The model runs without gradients. Afterwards its hooks, its train/eval mode and torch's random state are what they
    were, also after an error or Ctrl-C; it is never moved to another device. In evaluation mode its buffers stay as
    they are, too.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of batches
        Pairs (inputs, labels), or dicts of keyword arguments with the labels among them.
    layers
        Names, globs, regular expressions, types, predicates or presets; see `neurocollapse.hooks.select`.
    pool : str, callable or dict
        How maps and tokens become one vector a sample; "auto" takes the mean. See `neurocollapse.hooks.capture`.
    num_classes : int, optional
        Default: what the loader's dataset says in `classes`, else the largest label that occurs plus one.
    covariance : bool
        Keep the pooled within-class scatter matrix (features × features) of every layer.
    device : torch.device or str, optional
        Where the inputs go. Default: where the model is.
    mode : {"eval", "train", "unchanged"}
        Mode of the model while it is measured. In train mode batch normalisation moves its running statistics, which
        are not put back.
    non_finite : {"raise", "skip"}
        Features that are NaN or infinite end the run, or are left out of that layer and counted.
    progress : bool
        Show a progress bar on a terminal or in a notebook.
    resume : path-like, optional
        File in which the finished part is kept; a run that finds it goes on from there, to the last bit if the loader
        repeats its batches. A file of other layers, options, weights or batches is refused: functions are compared by
        name and code, batches by their labels and a sample of the numbers in their inputs.
    calls : {"all", "first", "last"}
        Which calls of a module that is called several times in one forward pass.
    output : str, callable or dict, optional
        Which tensor of a structured output is meant.
    label_fn : callable, optional
        Labels of a batch, where they are not its second element.
    include_input : bool
        Count the network's input, flattened, as layer 0, named "input".
    precision : {"single", "double"}
        "double" keeps the whole state in float64.
    max_memory : float, optional
        Bytes that the running state may take. Default: 90 % of the free memory.
    distributed : bool
        Add up the moments of all processes of torch.distributed; samples that a DistributedSampler repeats to even
        out the ranks count once.

    Returns
    -------
    MomentCollection
        Mapping layer name → ClassMoments, in order of execution.

    Raises
    ------
    ValueError
        For labels, features, layers or options that cannot be used; the message says what to do. Subclasses:
        LabelError, NonFiniteError, NoMatchError, NeverFiredError, LayoutError, AmbiguousOutputError, StateFileError.
    MemoryPlanError
        If the state would not fit in memory.

    Examples
    --------
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> collect(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), batches, layers="linear")
    MomentCollection(1 layer, 4 samples, 2 classes)
    """
    _check_choices(mode=(mode, MODES), non_finite=(non_finite, NON_FINITE), precision=(precision, PRECISIONS))
    _check_loader(loader)
    if label_fn is not None and not callable(label_fn):
        raise TypeError(f"`label_fn` must be a function from a batch to its labels, got {type(label_fn).__name__}")
    if distributed and not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("`distributed` needs torch.distributed; call init_process_group or start with torchrun")
    start = time.monotonic()
    classes, num_classes, place = _class_names(loader), _checked_num_classes(num_classes), device_of(model, device)
    limit = memory_limit(place, _checked_bytes(max_memory))
    stream = MomentStream(num_classes or len(classes) or None, StreamOptions(precision, covariance, non_finite, limit))
    recorder = Recorder(model, layers, pool=pool, output=output, calls=calls, sink=stream.add)
    settings = {
        "model": type(recorder.model).__name__,
        "weights": weight_digest(recorder.model, mode) if resume is not None else 0,
        "layers": [[tap.name, tap.path, tap.at_input] for tap in recorder.taps],
        "pool": option_text(pool),
        "output": option_text(output),
        "calls": calls,
        "precision": precision,
        "covariance": covariance,
        "non_finite": non_finite,
        "mode": mode,
        "num_classes": num_classes,
        "include_input": include_input,
    }
    checkpoint = Checkpoint(_rank_path(resume, distributed), settings, place)
    run = Run(
        recorder,
        stream,
        checkpoint,
        callee=callee_of(model, recorder.model),
        device=place,
        label_fn=label_fn,
        include_input=include_input,
        num_unrepeated=_num_unrepeated(loader, distributed),
    )
    with undisturbed(recorder.model, mode, place), recorder:
        run.over(loader, progress=progress)
    if not stream.num_samples and not distributed:
        raise ValueError("the loader gave no samples; check that it is not empty or already used up")
    with torch.inference_mode(False):  # results made in inference mode could not be used with autograd outside it
        moments, records = stream.finished(run.ordered_records())
    attributes = describe_run(recorder.model, place) | {
        "mode": mode,
        "precision": precision,
        "num_samples": stream.num_samples,
        "class_names": json.dumps(classes),
        "skipped_layers": json.dumps(checkpoint.skipped),
        "warnings": json.dumps(checkpoint.notes),
        "elapsed_seconds": round(time.monotonic() - start, 3),
    }
    collection = MomentCollection(moments, records, attributes)
    return all_reduce(collection) if distributed else collection


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    """Raise for an option that is none of those there are."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check_loader(loader: Any) -> None:
    """Raise unless `loader` can be iterated and is not a dataset, which yields samples."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise TypeError(
            f"`loader` must yield batches, got the dataset {type(loader).__name__}; wrap it in a "
            "torch.utils.data.DataLoader"
        )
    if not isinstance(loader, Iterable):
        raise TypeError(f"`loader` must be an iterable of batches, got {type(loader).__name__}")


def _checked_num_classes(num_classes: Any) -> int | None:
    """`num_classes` as a plain integer; raise unless it is a positive one or None."""
    if num_classes is None:
        return None
    try:
        value = operator.index(num_classes)
    except TypeError:
        value = 0
    if value < 1 or isinstance(num_classes, bool):
        raise ValueError(f"`num_classes` must be a positive integer, got {num_classes!r}")
    return value


def _checked_bytes(max_memory: Any) -> float | None:
    """Raise unless `max_memory` is a positive number or None."""
    if max_memory is not None and (not isinstance(max_memory, int | float) or not 0 < max_memory < math.inf):
        raise ValueError(f"`max_memory` must be a positive number of bytes, got {max_memory!r}")
    return max_memory


def _class_names(loader: Any) -> list[str]:
    """The class names that the loader's dataset knows, if it does."""
    classes = getattr(getattr(loader, "dataset", None), "classes", None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def _rank_path(path: str | PathLike[str] | None, distributed: bool) -> str | PathLike[str] | None:
    """The resume file of this process: each rank has its own."""
    return f"{path}.rank{dist.get_rank()}" if path is not None and distributed else path


def _num_unrepeated(loader: Any, distributed: bool) -> int | None:
    """Samples of this rank before a DistributedSampler repeats some to even out the ranks; None for all."""
    sampler = getattr(loader, "sampler", None)
    if not distributed or not isinstance(sampler, DistributedSampler):
        return None
    total = len(sampler.dataset)  # type: ignore[arg-type]  # a DistributedSampler has checked that it has a length
    return min(sampler.num_samples, len(range(sampler.rank, total, sampler.num_replicas)))
