"""What becomes of some of an experiment's claims."""

from collections.abc import Callable

import xarray as xr

from neurocollapse.theory import Verdict


def outcomes_of(claims: Callable[[xr.Dataset], list[Verdict]], dataset: xr.Dataset, words: str) -> set[str]:
    """What becomes of the claims that have these words, of which there must be one."""
    found = {verdict.outcome for verdict in claims(dataset) if words in verdict.claim}
    assert found
    return found
