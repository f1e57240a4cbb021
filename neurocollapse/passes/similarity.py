"""Layers and models compared with each other: centred kernel alignment, batch by batch."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from neurocollapse.hooks.presets import penultimate
from neurocollapse.hooks.select import ROOT, as_list, unwrap
from neurocollapse.metrics.alignment import FEWEST, aligned, aligned_error, centred_gram, class_cka, u_centred
from neurocollapse.metrics.measure import provenance_of
from neurocollapse.passes.collect import collected
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.moments import MomentSink
from neurocollapse.passes.options import PassOptions, refuse_unknown
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch, LayerRecord, MemoryPlanError, MomentCollection, memory_limit
from neurocollapse.statistics.memory import GIB
from neurocollapse.support.checks import shown
from neurocollapse.support.transfer import Readback, sent, sent_back

_MOMENT_OPTIONS = ("precision", "non_finite", "max_memory")
"""The options that class moments take, beside those of every pass."""
_NUM_SUMS = 4
"""Sums of the products, their squares, products with those of one layer with itself, and products of these."""


class _Held(NamedTuple):
    """Gram matrices of a batch by layer, its number of samples, and on its way to the CPU which of them are finite."""

    grams: dict[str, Tensor]
    num_samples: int
    finite: Readback


class SimilaritySink(Sink):
    """Sums over the batches from which the alignment of all pairs of layers, and its error, follow.

    Each batch counts by its number of samples; one of fewer than four has no estimate and is left out. Where samples
    may be left out, a device is asked which, and the batch counts when the next one comes.

    Parameters
    ----------
    skips_non_finite : bool
        Leave out samples with NaN or infinite features at any layer.
    """

    def __init__(self, *, skips_non_finite: bool = False) -> None:
        self.num_batches, self.skips_non_finite = 0, skips_non_finite
        self._sites: list[str] = []
        self._sums = torch.zeros(_NUM_SUMS, 0, 0, dtype=torch.float64, device="cpu")
        self._grams: dict[str, Tensor] = {}
        self._finite: Tensor | None = None
        self._held: _Held | None = None
        self._snapshot: list[Callable[[], Mapping[str, Tensor]]] | None = None  # to be filled when that has counted

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs, and how much memory is free there."""
        super().start(layers, device)
        self.limit = memory_limit(device)
        self._never_waits = device.type != "cpu"

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._grams, self._count, self._finite = {}, len(batch.labels), None

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Keep the Gram matrix of the batch at one layer."""
        if rows.source is not None:
            raise ValueError("similarity compares samples, not positions; pool them, with pool='mean', say")
        held = 0 if self._held is None else 8 * self._held.num_samples**2 * len(self._held.grams)
        needed = 8 * self._count**2 * (2 * len(self._grams) + 3) + held  # once more where they are stacked
        if needed > self.limit:
            raise MemoryPlanError(
                f"Gram matrices of {self._count} samples per batch need over {needed / GIB:.1f} GiB, but only "
                f"{self.limit / GIB:.1f} GiB may be used; pass smaller batches or fewer layers"
            )
        if self._count < FEWEST:
            return
        if self.skips_non_finite:
            finite = features.isfinite().all(dim=1)
            features = features.where(finite.unsqueeze(1), 0.0)
            finite = finite.to(self.device)
            self._finite = finite if self._finite is None else self._finite & finite
        self._grams[site] = centred_gram(features).to(self.device)

    def end(self, logits: Tensor | None) -> None:
        """Add the products of all pairs of layers, or of the batch before."""
        if self._finite is None:
            self._add_products(self._grams, self._count)
        else:
            self._settle()
            self._held = _Held(self._grams, self._count, Readback(self._finite))
            if not self._never_waits:
                self._settle()
        self._grams = {}

    def _settle(self) -> None:
        """Count the batch that was held back, if there is one, and give the state that was asked for behind it."""
        held, self._held = self._held, None
        if held is not None:
            self._count_held(held)
        if self._snapshot is not None:
            self._snapshot.append(sent_back(self._raw_state()))
            self._snapshot = None

    def _count_held(self, held: "_Held") -> None:
        """Count a batch without the samples that are not finite somewhere."""
        finite = held.finite.numbers()
        if bool(finite.all()):
            self._add_products(held.grams, held.num_samples)
            return
        count = int(finite.sum())
        if count >= FEWEST:  # centring the others again forgets them
            kept = sent(finite.nonzero().flatten(), self.device)
            self._add_products({site: u_centred(gram[kept][:, kept]) for site, gram in held.grams.items()}, count)

    def _add_products(self, grams: Mapping[str, Tensor], count: int) -> None:
        """Add the products of all pairs of layers in one batch."""
        if not grams:
            return
        if not self._sites:
            self._sites = list(grams)
            shape = _NUM_SUMS, len(self._sites), len(self._sites)
            with torch.inference_mode(False):  # sums made in inference mode could not be updated outside it
                self._sums = torch.zeros(shape, dtype=torch.float64, device=self.device)
        rows = torch.stack([grams[site].flatten() for site in self._sites])
        products = rows @ rows.T / (count - 3)  # n HSIC₁
        own = products.diagonal()
        self._sums += torch.stack(
            [products, products.square(), products * own.unsqueeze(1), own.unsqueeze(1) * own.unsqueeze(0)]
        )
        self.num_batches += 1

    def drop(self, site: str) -> None:
        """Forget one layer."""
        self._grams.pop(site, None)
        if self._held is not None:
            self._held.grams.pop(site, None)
        if site in self._sites:
            kept = [index for index, one in enumerate(self._sites) if one != site]
            self._sites.remove(site)
            self._sums = self._sums[:, kept][:, :, kept].clone()

    def state(self) -> dict[str, Tensor]:
        """The sums, which layers they are of, and of how many batches."""
        self._settle()
        return self._raw_state()

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """The same, without waiting: a batch that is held back counts when the next one has ended."""
        if self._held is None:
            return sent_back(self._raw_state())
        found: list[Callable[[], Mapping[str, Tensor]]] = []
        self._snapshot = found

        def state() -> Mapping[str, Tensor]:
            if not found:
                self._settle()
            return found[0]()

        return state

    def _raw_state(self) -> dict[str, Tensor]:
        """The sums as they are."""
        places = {f"site {site}": torch.tensor(index, device="cpu") for index, site in enumerate(self._sites)}
        return {"sums": self._sums, "batches": torch.tensor(self.num_batches, device="cpu"), **places}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the sums of some batches."""
        places = {name.removeprefix("site "): int(at) for name, at in tensors.items() if name.startswith("site ")}
        self._sites = sorted(places, key=places.__getitem__)
        self._sums, self.num_batches = tensors["sums"].to(self.device, copy=True), int(tensors["batches"])

    def result(self) -> dict[str, np.ndarray]:
        """`cka` and its standard error over draws of batches, shape (layers, layers), in the order of `layers`."""
        self._settle()
        place = {site: index for index, site in enumerate(self._sites)}
        order = [place[site] for site in self.layers if site in place]
        sums = self._sums.cpu()[:, order][:, :, order].numpy()
        error = np.full(sums.shape[1:], np.nan)
        if self.num_batches > 1:
            error = aligned_error(*sums) * math.sqrt(self.num_batches / (self.num_batches - 1))
        return {"cka": aligned(sums[0]), "cka_error": error}


def similarity(
    model: nn.Module, loader: Iterable[Any], *, other: nn.Module | None = None, **options: Any
) -> xr.Dataset:
    """Compare every layer with every other one, or with those of a second model, on a loader's data.

    Linear CKA by the unbiased minibatch estimate: estimates of HSIC, whose expectation does not depend on the batch
    size, are summed over batches. Batches of a few hundred samples make it precise; only their Gram matrices are held.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    loader : iterable of batches
        As for `neurocollapse.collect`.
    other : torch.nn.Module, optional
        A second model, which is given the same batches. The layers of `model` are then along `layer`, those of `other`
        along `layer_`. Names in `layers` begin with "first." and "second.", as in ``layers=["first.*", "second.fc"]``;
        presets and types mean both models, "penultimate" the last linear layer of each in definition order.
    **options
        What `neurocollapse.collect` takes: `layers`, `pool` (one row per sample), `num_classes`, `resume`, …; not
        `distributed`. With non_finite="skip", `cka` is of the samples that are finite at all layers.

    Returns
    -------
    xarray.Dataset
        Along `layer, layer_`: `cka`; `cka_error`, its standard error over draws of batches (NaN for one batch); and
        `class_cka`, the alignment of the class means.

    Raises
    ------
    ValueError
        As `neurocollapse.collect`; for `distributed`, for rows that are positions, if no batch has four samples, and if
        both models are one or have modules in common.
    MemoryPlanError
        If the Gram matrices of a batch, or of the class means, do not fit in memory.

    References
    ----------
    Kornblith et al., ICML 2019; Nguyen, Raghu, Kornblith, ICLR 2021.

    Examples
    --------
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> dataset = similarity(model, [(torch.randn(60, 4), torch.arange(60) % 3)])
    >>> dataset["cka"].dims, bool(dataset["cka"].sel(layer="0", layer_="1") > 0.5)
    (('layer', 'layer_'), True)
    """
    refuse_unknown("similarity", options, (*(field.name for field in fields(PassOptions)), *_MOMENT_OPTIONS, "other"))
    if other is not None and not isinstance(other, nn.Module):
        raise TypeError(f"`other` must be a torch.nn.Module, got {shown(other)}; leave it out for one model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    if options.get("distributed"):
        raise ValueError("similarity works in one process; leave out `distributed`, or compare on one rank only")
    moments = MomentSink(**{name: options.pop(name) for name in _MOMENT_OPTIONS if name in options})
    sink, both = SimilaritySink(skips_non_finite=moments.skips), model
    if other is not None:
        both, options["layers"] = _Pair(model, other), _of_both(options.get("layers", "leaves"), model, other)
    first = Pass(both, loader, {"moments": moments, "similarity": sink}, PassOptions(**options), name="similarity")
    collection = collected(first, None)
    if not sink.num_batches:
        raise ValueError(f"no batch has {FEWEST} samples, which the unbiased estimate needs; pass larger batches")
    return _dataset(collection, sink.result(), paired=other is not None)


class _Pair(nn.Module):
    """Two models that are given the same arguments."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        shared = set(first.modules()) & set(second.modules())
        if shared:
            one = type(next(iter(shared))).__name__
            raise ValueError(f"`other` must be another model, but both have one {one}; compare with a copy")
        self.first, self.second = first, second

        @functools.wraps(first.forward)  # with its signature, by which batches are taken apart
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = first(*args, **kwargs)
            second(*args, **kwargs)
            return output

        self.forward = forward


def _of_both(layers: Any, first: nn.Module, second: nn.Module) -> list[Any]:
    """The layers, with the input of each model's head for "penultimate", which of a pair would be one layer."""
    heads = [
        f"{side}.{name}@in" if name else f"{side}@in"
        for side, model in zip(_SIDES, (first, second), strict=True)
        for name in penultimate(unwrap(model))
    ]
    return [one for item in as_list(layers) for one in (heads if item == "penultimate" else [item])]


def _dataset(collection: MomentCollection, values: Mapping[str, np.ndarray], *, paired: bool) -> xr.Dataset:
    """The arrays with their labels; of two models, rows of the first and columns of the second."""
    names = np.array(list(collection), dtype=object)
    rows = columns = np.arange(len(names))
    if paired:
        sides = [re.split("[.@#]", name)[0] for name in names]
        rows, columns = (np.array([at for at in rows if sides[at] == side], dtype=int) for side in _SIDES)
        if not (rows.size and columns.size):
            raise ValueError(
                "`layers` must choose layers of both models; their names begin with 'first.' and 'second.'"
            )
    arrays = {**values, "class_cka": class_cka(list(collection.values()))}
    variables = {name: (("layer", "layer_"), one[np.ix_(rows, columns)], _WORDS[name]) for name, one in arrays.items()}
    ours = [_without(_SIDES[0], name) if paired else name for name in names[rows]]
    others = [_without(_SIDES[1], name) if paired else name for name in names[columns]]
    dataset = xr.Dataset(variables, {"layer": ours, "layer_": others})
    return dataset.assign_attrs(provenance_of(collection, "equal", []), title="Similarity of layers")


def _without(side: str, name: str) -> str:
    """A layer's name in its own model, which may be the layer itself."""
    own = name.removeprefix(side)
    return own.removeprefix(".") if own.startswith(".") else f"{ROOT}{own}"


_SIDES = ("first", "second")
_KORNBLITH = "Kornblith et al., ICML 2019; Nguyen, Raghu, Kornblith, ICLR 2021"
_WORDS: dict[str, dict[str, Any]] = {
    "cka": {
        "long_name": "centred kernel alignment",
        "symbol": r"\mathrm{CKA}",
        "units": "1",
        "convention": "linear; unbiased HSIC summed over batches; 1 for equal geometry, about 0 for independent ones",
        "reference": _KORNBLITH,
        "family": "similarity",
        "valid_max": 1.0,
    },
    "cka_error": {
        "long_name": "standard error of the centred kernel alignment",
        "symbol": r"\mathrm{se}(\mathrm{CKA})",
        "units": "1",
        "convention": "over draws of batches, delta method; NaN of a single batch",
        "reference": _KORNBLITH,
        "family": "similarity",
        "valid_min": 0.0,
    },
    "class_cka": {
        "long_name": "centred kernel alignment of the class means",
        "symbol": r"\mathrm{CKA}(M_\ell, M_{\ell'})",
        "units": "1",
        "convention": "linear; class means about their mean, each class with equal weight; always 1 for two classes",
        "reference": _KORNBLITH,
        "family": "similarity",
        "valid_min": 0.0,
        "valid_max": 1.0,
    },
}
