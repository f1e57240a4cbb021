"""Seeds of random numbers, checked before torch is handed them."""

import operator
from typing import Any


def checked_seed(seed: Any) -> int:
    """`seed` as a plain integer.

    Raises
    ------
    ValueError
        Unless it is an integer from 0 to 2⁶³ − 1.

    Examples
    --------
    >>> checked_seed(3)
    3
    """
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 2**63:
        raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, got {str(seed)[:40]}")
    return value
