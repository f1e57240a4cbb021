"""The part of the samples on which probes are tested."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocollapse.statistics import check_labels


def held_out(labels: Any, *, share: float = 0.3, seed: int = 0) -> NDArray[np.bool_]:
    """Which samples are held out: the same share of every class, drawn without replacement.

    In a class with n samples, n · `share` rounded to the nearest integer (halves up) are held out, but never all.

    Parameters
    ----------
    labels : array-like of shape (samples,)
    share : float, default 0.3
        In (0, 1).
    seed : int, default 0
        The split depends on the labels and this seed alone; no global random state is read or moved.

    Returns
    -------
    ndarray of shape (samples,), bool

    Raises
    ------
    ValueError
        If `share` is outside (0, 1), or the labels are not class indices.

    Examples
    --------
    >>> int(held_out([0] * 10 + [1] * 20 + [2]).sum())
    9
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"`share` must be a number between 0 and 1, got {share!r}; 0.3 holds out 30 %")
    targets = check_labels(labels).numpy()
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(targets), dtype=bool)
    for k in np.unique(targets):
        members = np.flatnonzero(targets == k)
        size = min(int(share * len(members) + 0.5), len(members) - 1)
        chosen[generator.permutation(members)[:size]] = True
    return chosen
