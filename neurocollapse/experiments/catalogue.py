"""Every experiment by its name."""

from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xarray as xr

from neurocollapse.experiments.adapters.deep_lora import EXPERIMENT as DEEP_LORA
from neurocollapse.experiments.adapters.vision import EXPERIMENT as ADAPTERS_VISION
from neurocollapse.experiments.classifiers.balance_collapse import EXPERIMENT as BALANCE_COLLAPSE
from neurocollapse.experiments.classifiers.data_separation_law import EXPERIMENT as DATA_SEPARATION_LAW
from neurocollapse.experiments.classifiers.depth_role import EXPERIMENT as DEPTH_ROLE
from neurocollapse.experiments.classifiers.feature_pictures import EXPERIMENT as FEATURE_PICTURES
from neurocollapse.experiments.classifiers.hybrid_vs_mlp import EXPERIMENT as HYBRID_VS_MLP
from neurocollapse.experiments.classifiers.margin_factors import EXPERIMENT as MARGIN_FACTORS
from neurocollapse.experiments.classifiers.penultimate_svd import EXPERIMENT as PENULTIMATE_SVD
from neurocollapse.experiments.classifiers.tail_shape import EXPERIMENT as TAIL_SHAPE
from neurocollapse.experiments.classifiers.terminal_phase import EXPERIMENT as TERMINAL_PHASE
from neurocollapse.experiments.collapse.assumption_checks import EXPERIMENT as ASSUMPTION_CHECKS
from neurocollapse.experiments.collapse.decay import DEPTH, INIT, SCALE, TRADEOFF
from neurocollapse.experiments.collapse.progressive_theorem import EXPERIMENT as PROGRESSIVE_THEOREM
from neurocollapse.experiments.experiment import Experiment, Outcome
from neurocollapse.experiments.language.token_collapse import EXPERIMENT as TOKEN_COLLAPSE
from neurocollapse.experiments.lowrank.low_rank_mlp import EXPERIMENT as LOW_RANK_MLP
from neurocollapse.experiments.lowrank.low_rank_subspace import EXPERIMENT as LOW_RANK_SUBSPACE
from neurocollapse.experiments.parsimony.smooth_mlp import EXPERIMENT as SMOOTH_MLP
from neurocollapse.experiments.parsimony.svd_evolution import EVOLUTION, OPTIMIZERS
from neurocollapse.experiments.parsimony.svd_nonwhitened import EXPERIMENT as NONWHITENED
from neurocollapse.experiments.recovery.alignment import EXPERIMENT as ALIGNMENT
from neurocollapse.experiments.recovery.depth_width import EXPERIMENT as DEPTH_WIDTH
from neurocollapse.experiments.recovery.matrix_completion import EXPERIMENT as MATRIX_COMPLETION
from neurocollapse.experiments.recovery.matrix_factorization import EXPERIMENT as MATRIX_FACTORIZATION
from neurocollapse.experiments.recovery.movielens import EXPERIMENT as MOVIELENS
from neurocollapse.experiments.recovery.narrow_vs_compressed import EXPERIMENT as NARROW_VS_COMPRESSED
from neurocollapse.experiments.recovery.spectral_init import EXPERIMENT as SPECTRAL_INIT
from neurocollapse.experiments.settings import replaced
from neurocollapse.experiments.transfer.collapse import EXPERIMENT as TRANSFER_COLLAPSE
from neurocollapse.experiments.transfer.fewshot import EXPERIMENT as TRANSFER_FEWSHOT
from neurocollapse.experiments.transfer.layerwise import EXPERIMENT as TRANSFER_LAYERWISE
from neurocollapse.experiments.transfer.out_of_distribution import EXPERIMENT as OUT_OF_DISTRIBUTION
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean

_CLASSIFIERS = (
    HYBRID_VS_MLP,
    FEATURE_PICTURES,
    DATA_SEPARATION_LAW,
    DEPTH_ROLE,
    PENULTIMATE_SVD,
    MARGIN_FACTORS,
    BALANCE_COLLAPSE,
    TAIL_SHAPE,
    TERMINAL_PHASE,
)
_COLLAPSE = (DEPTH, SCALE, INIT, TRADEOFF, PROGRESSIVE_THEOREM, ASSUMPTION_CHECKS)
_PARSIMONY = (EVOLUTION, NONWHITENED, OPTIMIZERS, SMOOTH_MLP)
_RECOVERY = (
    MATRIX_FACTORIZATION,
    MATRIX_COMPLETION,
    DEPTH_WIDTH,
    NARROW_VS_COMPRESSED,
    SPECTRAL_INIT,
    ALIGNMENT,
    MOVIELENS,
)
_LOW_RANK = (LOW_RANK_MLP, LOW_RANK_SUBSPACE, DEEP_LORA, ADAPTERS_VISION)
_TRANSFER = (TRANSFER_COLLAPSE, TRANSFER_LAYERWISE, TRANSFER_FEWSHOT, OUT_OF_DISTRIBUTION)
_LISTED: tuple[Experiment, ...] = (
    *_CLASSIFIERS,
    TOKEN_COLLAPSE,
    *_COLLAPSE,
    *_PARSIMONY,
    *_RECOVERY,
    *_LOW_RANK,
    *_TRANSFER,
)

EXPERIMENTS = MappingProxyType({experiment.name: experiment for experiment in _LISTED})
"""Name → experiment, in the order in which they are listed."""


def experiment(
    name: str,
    *,
    scale: str = "small",
    data_root: str | PathLike[str] | None = None,
    folder: str | PathLike[str] | None = None,
    progress: bool = True,
    **changes: Any,
) -> Outcome:
    """Run an experiment of the source material and check its claims against the result.

    Parameters
    ----------
    name
        As listed in `EXPERIMENTS`.
    scale : str, default "small"
        "small" takes under a minute; "paper" is the published setting.
    data_root : path-like, optional
        Folder with `mnist/`, `fashion-mnist/` and `cifar10/`, which published settings need.
    folder : path-like, optional
        Folder in which finished parts are kept, and from which the run continues. Default: nothing is kept.
    progress : bool, default True
        Show progress bars on a terminal.
    **changes
        Fields of the setting, for example `seed=1`.

    Raises
    ------
    ValueError
        If there is no such experiment, scale or field.

    Examples
    --------
    >>> experiment("svd-evolution", num_steps=10).status
    'holds'
    """
    chosen = find(name)
    setting = replaced(chosen.setting(scale), changes)
    place = Workplace(
        None if data_root is None else Path(data_root), None if folder is None else Path(folder), progress
    )
    return chosen(setting, workplace=place)


def find(name: str) -> Experiment:
    """Find an experiment by its name.

    Parameters
    ----------
    name : str
        As listed in `EXPERIMENTS`.

    Raises
    ------
    ValueError
        If there is none; the message names the nearest.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be the name of an experiment, got {shown(name)}; see experiment --list")
    if name not in EXPERIMENTS:
        hint = did_you_mean(name, EXPERIMENTS, most=1, otherwise="see neurocollapse experiment --list")
        raise ValueError(f"there is no experiment {shown(name)}{hint}")
    return EXPERIMENTS[name]


def restored(dataset: xr.Dataset) -> Outcome:
    """Restore the outcome of an earlier run of any experiment from its saved dataset.

    Parameters
    ----------
    dataset : xarray.Dataset
        As `nc.open` reads it.

    Raises
    ------
    ValueError
        If the dataset is of no experiment, or of a version with another setting.
    """
    return find(str(dataset.attrs.get("experiment"))).restored(dataset)
