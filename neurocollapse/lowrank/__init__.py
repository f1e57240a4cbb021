"""Training in the low-dimensional subspaces that the theory of deep linear networks names."""

from neurocollapse.lowrank.adapters import (
    AdapterError,
    Adapters,
    CompressedDeepLoRA,
    DeepLoRA,
    LoRA,
    inject,
    load_adapters,
    load_peft,
    save_adapters,
    save_peft,
)
from neurocollapse.lowrank.als import alternate
from neurocollapse.lowrank.completion import Completion
from neurocollapse.lowrank.costs import Cost, cost
from neurocollapse.lowrank.factorization import Factorization
from neurocollapse.lowrank.factors import Factors, gradient_subspace, polar, spectral_factors
from neurocollapse.lowrank.layer import LowRankLinear, factorize, merge_factors
from neurocollapse.lowrank.movielens import Ratings, RatingsError, read_ratings
from neurocollapse.lowrank.network import Compressed, compress, compress_spectral, expand
from neurocollapse.lowrank.observations import Observations, observe
from neurocollapse.lowrank.recovery import Diverged, Recovery, first_gradient, recover
from neurocollapse.lowrank.sensing import Sensing

__all__ = [
    "AdapterError",
    "Adapters",
    "Completion",
    "Compressed",
    "CompressedDeepLoRA",
    "Cost",
    "DeepLoRA",
    "Diverged",
    "Factorization",
    "Factors",
    "LoRA",
    "LowRankLinear",
    "Observations",
    "Ratings",
    "RatingsError",
    "Recovery",
    "Sensing",
    "alternate",
    "compress",
    "compress_spectral",
    "cost",
    "expand",
    "factorize",
    "first_gradient",
    "gradient_subspace",
    "inject",
    "load_adapters",
    "load_peft",
    "merge_factors",
    "observe",
    "polar",
    "read_ratings",
    "recover",
    "save_adapters",
    "save_peft",
    "spectral_factors",
]
