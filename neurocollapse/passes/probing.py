"""Kept features as the parts that probes are trained and tested on, and what may mislead about them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from neurocollapse.passes.features import KeptFeatures, check_features_fit
from neurocollapse.passes.loaders import check_loader
from neurocollapse.probes import LayerSplit, Probe, held_out
from neurocollapse.statistics import MomentCollection
from neurocollapse.support.checks import integer, shown
from neurocollapse.support.text import listed

Kept = Mapping[str, KeptFeatures]
"""The features of "loader", and of "test_loader" where there is one."""
Mask = NDArray[np.bool_] | None
"""Which samples of the loader are held out for testing; None where a test loader gives others."""


@dataclass(frozen=True)
class Probing:
    """How probes are trained and tested; see `neurocollapse.analyze`.

    Parameters
    ----------
    choice : True or {"logistic", "mse"}
    num_samples, seed : int
    test_loader : iterable of batches, optional

    Raises
    ------
    ValueError, TypeError
        If an option cannot be used.
    """

    choice: bool | Probe
    num_samples: int
    seed: int
    test_loader: Iterable[Any] | None = None

    def __post_init__(self) -> None:
        if self.choice is not True and (not isinstance(self.choice, str) or self.choice not in get_args(Probe)):
            choices = ", ".join(map(repr, get_args(Probe)))
            raise ValueError(f"`probes` must be False, True or one of {choices}, got {shown(self.choice)}")
        if self.test_loader is not None:
            check_loader(self.test_loader, "test_loader")
        object.__setattr__(self, "num_samples", integer("probe_samples", self.num_samples, least=1))
        object.__setattr__(self, "seed", integer("probe_seed", self.seed, least=0))

    @property
    def probe(self) -> Probe:
        """Which linear probe is meant."""
        return "logistic" if isinstance(self.choice, bool) else self.choice

    def check_memory(self, moments: MomentCollection, limit: float | None) -> None:
        """Raise unless the features that will be kept fit in memory."""
        sizes = [moments.num_samples, *([] if self.test_loader is None else [_length(self.test_loader)])]
        total = sum(self.num_samples if size is None else min(self.num_samples, size) for size in sizes)
        check_features_fit(moments, total, limit=limit)

    def held_out(self, kept: Kept) -> Mask:
        """The samples of the loader that probes are tested on."""
        return None if "test_loader" in kept else held_out(kept["loader"].labels, seed=self.seed)

    def splits(self, moments: MomentCollection, kept: Kept) -> dict[str, Callable[[], LayerSplit]]:
        """A function that makes both parts, for each layer that has features of all loaders."""
        names = [name for name in moments if all(name in part.features for part in kept.values())]
        mask = self.held_out(kept)
        return {name: partial(_split, name, moments.record(name).feature_dtype, kept, mask) for name in names}

    def attributes(self, kept: Kept) -> dict[str, Any]:
        """How many samples are behind the probes, and how they were parted."""
        train, test, mask = kept["loader"], kept.get("test_loader"), self.held_out(kept)
        num_held_out = 0 if mask is None else int(mask.sum())
        attributes = {
            "probe": self.probe,
            "probe_train_samples": len(train.labels) - num_held_out,
            "probe_test_samples": num_held_out if test is None else len(test.labels),
        }
        return attributes | ({"probe_seed": self.seed} if test is None else {})

    def notes(self, moments: MomentCollection, kept: Kept) -> list[str]:
        """What may mislead in the results."""
        num_classes = int((next(iter(moments.values())).count > 0).sum())
        return [*_notes_on_classes(kept, self.held_out(kept), num_classes), *_notes_on_rows(moments, kept)]


def _length(loader: Any) -> int | None:
    """How many samples a loader's dataset has, if it says so."""
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _split(name: str, dtype: str, kept: Kept, mask: Mask) -> LayerSplit:
    """Both parts of one layer."""
    train = kept["loader"]
    everything = train.rows(name)
    if mask is None:
        return LayerSplit(*everything, *kept["test_loader"].rows(name), everything[0], _rounding(dtype))
    return LayerSplit(*train.rows(name, ~mask), *train.rows(name, mask), everything[0], _rounding(dtype))


def _rounding(dtype: str) -> float | None:
    """ε of the dtype in which a layer computed, None where it was not a floating-point one."""
    kind = getattr(torch, dtype)
    return torch.finfo(kind).eps if kind.is_floating_point else None


def _notes_on_classes(kept: Kept, mask: Mask, num_classes: int) -> list[str]:
    """What the probes could not learn, or not be tested on, because of the classes of the kept samples."""
    labels = kept["loader"].labels
    notes, seen = [], set(labels.tolist())
    if len(seen) < num_classes:
        notes.append(
            f"the probes saw {len(seen)} of {num_classes} classes in the first {len(labels)} samples; shuffle the "
            "loader or raise probe_samples"
        )
    if mask is not None and not mask.any():
        notes.append(
            f"no sample is held out to test the probes: no class has two of the {len(labels)} kept samples; raise "
            "probe_samples or pass test_loader"
        )
    if mask is None and (unknown := sorted(set(kept["test_loader"].labels.tolist()) - seen)):
        notes.append(
            f"test_loader has classes that the probes are not trained on, whose samples count as wrong: "
            f"{listed(unknown)}"
        )
    return notes


def _notes_on_rows(moments: MomentCollection, kept: Kept) -> list[str]:
    """Which layers the probes' passes over the loaders lack, wholly or in some rows."""
    notes = []
    for loader, part in kept.items():
        if absent := [name for name in moments if name not in part.features]:
            notes.append(
                f"the model gave no features of {listed(absent)} in the probes' pass over {loader}: their probes are "
                "undefined"
            )
        left_out = {name: count for name in moments if name in part.features and (count := part.num_left_out(name))}
        if left_out:
            notes.append(f"probes leave out rows of {loader} that are not finite: {json.dumps(left_out)}")
    return notes
