"""Datasets that contradict claims of experiments, made by hand from outcomes that do not.

Each plant says what is wrong in it; together those of an experiment must contradict each of its claims.
"""

from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

Plant = Callable[[xr.Dataset], xr.Dataset]


def times(factor: float, *names: str, **place: Any) -> Plant:
    """Variables multiplied by a factor, everywhere or at positions along dimensions."""
    return lambda dataset: _changed(dataset, names, place, lambda values: values * factor)


def plus(offset: float, *names: str, **place: Any) -> Plant:
    """Variables with something added, everywhere or at positions along dimensions."""
    return lambda dataset: _changed(dataset, names, place, lambda values: values + offset)


def backwards(dim: str, *names: str) -> Plant:
    """Variables in the reverse order along a dimension, whose labels stay: the last is called the first."""

    def plant(dataset: xr.Dataset) -> xr.Dataset:
        turned = {name: dataset[name].isel({dim: slice(None, None, -1)}).variable for name in names}
        return dataset.assign(turned)

    return plant


def level(dim: str, *names: str) -> Plant:
    """Variables that do not change along a dimension: everywhere as at its first position."""

    def plant(dataset: xr.Dataset) -> xr.Dataset:
        first = {name: (0 * dataset[name] + dataset[name].isel({dim: 0}, drop=True)) for name in names}
        return dataset.assign({name: one.transpose(*dataset[name].dims).variable for name, one in first.items()})

    return plant


def few(**places: Any) -> Plant:
    """A part of the networks only."""
    return lambda dataset: dataset.isel(places)


def white(dataset: xr.Dataset) -> xr.Dataset:
    """Data that are called white, where the identities of the theorem fail nevertheless."""
    return dataset.assign(whitening_residual=0.0, long_whitening_residual=0.0)


def _changed(dataset: xr.Dataset, names: tuple[str, ...], place: dict[str, Any], change: Plant) -> xr.Dataset:
    """A copy with changed variables."""
    copy = dataset.copy(deep=True)
    for name in names:
        values = copy[name].astype(float)
        values[place] = change(values[place])
        copy[name] = values
    return copy


_DECAY = (times(1.1, "compression"), times(0.9, "slope"), times(2, "slope"), times(0.9, "r_squared"))
_SCALES = (level("init_scale", "slope"),)

PLANTS: Mapping[str, tuple[Plant, ...]] = {
    "hybrid-vs-mlp": (
        backwards("layer", "probe_accuracy_train", "compression", "numerical_rank"),
        times(0.9, "linear_r_squared"),
        level("layer", "separation", "numerical_rank"),
        backwards("network", "compression"),
    ),
    "feature-pictures": (
        times(0.9, "ncm_accuracy"),
        level("layer", "separation"),
        backwards("layer", "compression", "picture_compression"),
    ),
    "data-separation-law": (times(0.9, "r_squared"), times(-1, "slope_upper")),
    "depth-role": (
        backwards("depth", "compression", "accuracy"),
        backwards("layer", "compression"),
        times(100, "compression", depth=-1, layer=-1),
        times(1.1, "accuracy", depth=0),
    ),
    "penultimate-svd": (times(4, "drift_rank"), times(2, "singular_values", step=-1)),
    "margin-efficiency": (
        times(0.5, "margin_best"),
        times(1.01, "logit_margin_mean"),
        backwards("epoch", "margin_efficiency"),
        times(0.5, "margin_spread"),
        times(0, "margin_spread", "margin_samples"),
        backwards("network", "margin_duality"),
    ),
    "balance-implies-collapse": (
        times(4, "last_bound"),
        times(0.5, "last_bound"),
        backwards("weight_decay", "excess", "last_compression", "tail_condition"),
        times(2, "head_condition"),
    ),
    "tail-shape": (
        times(1.5, "compression"),
        times(0.5, "compression_visible"),
        times(2, "compression_visible"),
        level("layer", "compression_visible"),
        plus(10, "invisible_gain"),
        times(0.1, "decay_ratio", layer=-1),
        times(0.5, "invisible_gain", layer=-1),
        times(0.5, "decay_ratio"),
        times(1.5, "compression", network=slice(0, None, 2)),
    ),
    "terminal-phase": (
        backwards("epoch", "nc1", "nc2_norms", "nc2_angles", "nc3", "nc4", "ncm_error", "margin_efficiency"),
        backwards("split", "nc1"),
    ),
    "token-collapse": (
        level("step", "cdnv", "unc3", "gnc2", "gnc2_variation", "nc4"),
        level("width", "cdnv", "unc3", "gnc2", "nc4"),
    ),
    "collapse-depth": _DECAY,
    "collapse-scale": (*_DECAY, *_SCALES),
    "collapse-init": _DECAY,
    "scale-tradeoff": (times(10, "steps"), level("init_scale", "steps"), *_SCALES),
    "progressive-theorem": (
        times(1.1, "compression_as_printed", "compression"),
        plus(-0.1, "discrimination"),
        plus(0.03, "discrimination"),
        times(0.99, "discrimination", layer=-1),
        level("layer", "compression"),
        times(1.1, "decay_ratio"),
    ),
    "assumption-checks": (
        times(1.2, "minimum_norm", "balance"),
        backwards("network", "minimum_norm"),
        plus(1e-6, "spread"),
    ),
    "svd-evolution": (
        plus(0.1, "middle_angle"),
        times(1.02, "singular_values"),
        times(0.1, "top_angle", "bottom_angle"),
        times(0.5, "singular_values", component=slice(0, 3)),
    ),
    "svd-nonwhitened": (
        white,
        times(1.1, "singular_values", "long_singular_values"),
        times(0.1, "middle_angle", "long_middle_angle"),
        times(10, "middle_angle", "long_middle_angle"),
    ),
    "svd-optimizers": (
        backwards("optimizer", "middle_angle", "singular_values"),
        level("step", "singular_values"),
        times(0, "middle_angle"),
        times(2, "singular_values", step=slice(1, None, 2)),
    ),
    "smooth-mlp": (
        times(1.2, "drift"),
        level("init_scale", "drift"),
        backwards("case", "drift"),
    ),
    "matrix-factorization": (times(1.2, "deviation"), times(2, "num_steps", network=0)),
    "matrix-completion": (
        times(0, "final_test_error"),
        times(100, "final_test_error"),
        times(0.5, "num_steps", network=-1),
        backwards("network", "num_steps"),
        times(1.5, "num_steps"),
    ),
    "depth-width": (
        backwards("width", "final_test_error", "num_steps"),
        times(10, "num_steps", width=-1),
        plus(0.1, "final_test_error"),
    ),
    "narrow-vs-compressed": (level("network", "num_steps"), plus(0.1, "final_test_error")),
    "spectral-init": (backwards("network", "test_error"), times(1000, "test_error")),
    "alignment": (
        times(0.9, "left_alignment"),
        backwards("fraction", "left_alignment"),
        level("step", "left_alignment"),
    ),
    "movielens": (
        times(1.1, "rmse", algorithm=1),
        times(2, "rmse", algorithm=1),
        level("algorithm", "seconds"),
    ),
    "low-rank-mlp": (
        times(1.1, "parameters"),
        backwards("network", "test_accuracy"),
        times(0.9, "test_accuracy", network=1),
    ),
    "low-rank-mlp-subspace": (times(0.9, "test_accuracy", network=1), level("network", "test_accuracy")),
    "deep-lora": (
        level("rank", "pearson_by_rank"),
        backwards("kind", "pearson_by_rank", "pearson_by_size", "spectrum"),
    ),
    "adapters-vision": (
        times(0.5, "accuracy", tuning=slice(2, None)),
        times(100, "nc1", tuning=slice(2, None)),
        times(0.5, "accuracy", tuning=3),
    ),
    "out-of-distribution": (backwards("epoch", "auroc", "nc5"),),
    "transfer-collapse": (times(-1, "nc1_target"), few(loss=[1], epochs=[0])),
    "transfer-layerwise": (times(-1, "nc1"),),
    "transfer-fewshot": (
        times(2, "share"),
        times(0.9, "accuracy", tuning=2),
        times(2, "nc1", tuning=2),
        times(0.01, "error_bound"),
    ),
}
