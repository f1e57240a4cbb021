"""The checkpoints of a finished run as its steps."""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from neurocollapse import models
from neurocollapse.models.weight_files import weight_file
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.text import visible
from neurocollapse.tracking.records import TrackingError
from neurocollapse.tracking.tracker import FeatureTracker

CHECKPOINT = "checkpoint"
"""Coordinate along `step`: which checkpoint a record is of."""


def track_checkpoints(
    model: str | nn.Module | Callable[[], nn.Module],
    checkpoints: Iterable[str | PathLike[str]],
    loader: Iterable[Any],
    *,
    path: str | PathLike[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Measure the checkpoints of a run one after the other, each as a step.

    Parameters
    ----------
    model : str, torch.nn.Module or callable
        The architecture: a spec such as "package.module:factory" (see `neurocollapse.models.open`), a function that
        builds it, or a network, of which a copy is taken.
    checkpoints : iterable of path-like
        In the order of the steps 0, 1, …: weights as safetensors, the index of shards, or a torch file
        (Lightning's too), or folders of Hugging Face's. Each is read once.
    loader : iterable of batches
        Batches of inputs with their labels.
    path : path-like, optional
        File of the run. Checkpoints that it holds are not read again, so that an interrupted or longer list continues.
        Default: nothing is written.
    progress : bool, default True
        Show a progress bar on a terminal.
    **options
        Everything that `nc.analyze` takes, and `alarms` and `log` of `nc.track`.

    Returns
    -------
    xarray.Dataset
        As of `nc.track`, with the names of the checkpoints along `step`.

    Raises
    ------
    ModelError
        If a checkpoint cannot be read or does not fit the model.
    TrackingError
        If `path` holds other checkpoints, or they have other layers.
    ValueError
        If there is no checkpoint, or one is given twice.

    Examples
    --------
    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> files = [Path(tempfile.mkdtemp(), f"{step}.safetensors") for step in range(2)]
    >>> for file in files:
    ...     save_file(nn.Linear(4, 3).state_dict(), file)
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> track_checkpoints(nn.Linear(4, 3), files, batches)["checkpoint"].values.tolist()
    ['0.safetensors', '1.safetensors']
    """
    paths = [Path(one) for one in checkpoints]
    names = _names(paths)
    tracker = FeatureTracker(_architecture(model), loader, path=path, progress=False, **options)
    done = tracker.to_dataset() if tracker.num_records else None
    known = (
        [] if done is None else [str(name) for name in done[CHECKPOINT].values] if CHECKPOINT in done.coords else [""]
    )
    if known != names[: len(known)]:
        raise TrackingError(f"{visible(path)} holds other checkpoints, or in another order; name another file")
    for step in progress_bar(range(len(known), len(paths)), desc="checkpoints", shown=progress):
        file = paths[step]
        models.load_weights(tracker.model, weight_file(file) if file.is_dir() else file)
        tracker.about = {CHECKPOINT: names[step]}
        tracker.record(step)
    return tracker.to_dataset()


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths ordered by the numbers in their names: step2 before step10.

    Examples
    --------
    >>> [str(path) for path in in_natural_order([Path("step10.pt"), Path("step2.pt")])]
    ['step2.pt', 'step10.pt']
    """

    def key(path: Path) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", str(path))
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]

    return sorted(paths, key=key)


def _names(paths: Sequence[Path]) -> list[str]:
    """What checkpoints are called: by as many parts of their paths as tell all of them apart."""
    if not paths:
        raise ValueError("`checkpoints` must hold at least one path, got none")
    parts = [path.parts for path in paths]
    for count in range(1, 1 + max(map(len, parts))):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(path for path in paths if paths.count(path) > 1)
    raise ValueError(f"`checkpoints` holds {visible(twice)} twice; give each once")


def _architecture(model: Any) -> nn.Module:
    """A network into which checkpoints are loaded."""
    if isinstance(model, str):
        return models.open(model)
    built = copy.deepcopy(model) if isinstance(model, nn.Module) else model() if callable(model) else model
    if not isinstance(built, nn.Module):
        raise TypeError(f"`model` must be a spec, a module or a function that builds one, got {type(built).__name__}")
    return built
