"""No result depends on torch's default device; under "meta", whatever follows it has no numbers."""

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import neurocollapse as nc
from neurocollapse import data, lowrank, metrics, theory, train


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
EMBEDDING = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))
LABELS = torch.arange(60) % 4
INPUTS = randn(60, 6) + 2 * torch.eye(4, 6)[LABELS]
BATCHES = list(zip(INPUTS.split(16), LABELS.split(16), strict=True))
TOKENS = torch.randint(20, (6, 5), generator=torch.Generator().manual_seed(0))
TAGGED = [{"input": TOKENS, "tags": (TOKENS % 3).tolist()}]
MASK = [[1, 1, 1, 1, 0]] * 6
WEIGHTS = [MODEL[2].weight.detach(), MODEL[3].weight.detach()]
FEATURES = MODEL[:2](INPUTS).detach()
MOMENTS = nc.ClassMoments.from_features(INPUTS, LABELS, covariance=True)
TARGET = randn(8, 8)
FACTORS = [0.3 * randn(8, 8, seed=1), 0.3 * randn(8, 8, seed=2)]
SMALL = [randn(5, 6), randn(4, 5)]
ONE_HOT = torch.eye(4)[LABELS]
OTHERS = [(INPUTS[:16] + 9, LABELS[:16])]


def analyzed(**options: Any) -> xr.Dataset:
    return nc.analyze(MODEL, BATCHES, layers=["leaves", "penultimate"], covariance=True, progress=False, **options)


def tagged(**options: Any) -> xr.Dataset:
    return nc.analyze(EMBEDDING, TAGGED, layers="1", progress=False, **options)


CALLS: dict[str, Callable[[], Any]] = {
    "all quantities": lambda: analyzed(quantities="all", ood_loader=OTHERS, uncertainty=True, probes=True, pairs=True),
    "tags": lambda: tagged(label_fn=nc.labels.field("tags")),
    "mask": lambda: tagged(label_fn=lambda batch: [0, 1] * 3, mask_fn=lambda batch: MASK),
    "next token": lambda: tagged(label_fn=nc.labels.next_token("input"), num_classes=20),
    "similarity": lambda: nc.similarity(MODEL, BATCHES, progress=False),
    "verify a model": lambda: nc.verify(MODEL, BATCHES).to_dataset(),
    "verify arrays": lambda: nc.verify(MODEL, INPUTS.numpy(), LABELS.numpy()).to_dataset(),
    "verify weights": lambda: nc.verify(
        [one.numpy() for one in WEIGHTS], FEATURES.numpy(), LABELS.numpy()
    ).to_dataset(),
    "few-shot bound": lambda: metrics.few_shot_bound(MOMENTS, 2),
    "attribution": lambda: theory.attribution(MODEL, BATCHES).to_dataset(),
    "factorize": lambda: lowrank.factorize(copy.deepcopy(MODEL), "0", rank=2)(INPUTS),
    "inject": lambda: lowrank.inject(copy.deepcopy(MODEL), "0", kind=lowrank.LoRA(rank=2)).model(INPUTS),
    "inject deep": lambda: lowrank.inject(copy.deepcopy(MODEL), "0", kind=lowrank.DeepLoRA(rank=2)).model(INPUTS),
    "recover": lambda: lowrank.recover(lowrank.Factorization(TARGET), FACTORS, learning_rate=1e-3, num_steps=3).losses,
    "descend": lambda: train.descend(SMALL, INPUTS, ONE_HOT, learning_rate=1e-3, num_steps=3).losses,
    "digits": lambda: data.open("digits", limit=100).labels,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_results_are_those_without_a_default_device(call: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few samples
        expected = call()
        torch.set_default_device("meta")
        try:
            found = call()
        finally:
            torch.set_default_device(None)
    for one, other in itertools.zip_longest(_numbers(expected), _numbers(found)):
        np.testing.assert_array_equal(one, other)


def test_a_low_rank_layer_is_made_where_other_layers_are() -> None:
    with torch.device("meta"):
        layer = lowrank.LowRankLinear(4, 3, 2)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


def _numbers(result: Any) -> list[Any]:
    """Arrays of a result."""
    if isinstance(result, xr.Dataset):
        return [value.values for value in result.data_vars.values()]
    return [result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)]
