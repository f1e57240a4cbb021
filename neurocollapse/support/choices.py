"""Options with fixed choices: a Literal type lists them once, for annotations, checks and the command line."""

from typing import Any, Literal, get_args

from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import visible

# Those of the command line stand here, where nothing slow is imported with them: its help needs no torch.
Calls = Literal["all", "first", "last"]
"""Which calls of a module within one forward pass are kept."""
Mode = Literal["eval", "train", "unchanged"]
"""Mode of a model while it is used."""
NonFinite = Literal["raise", "skip"]
"""Features that are NaN or infinite end the run, or are left out of that layer and counted."""
PoolMode = Literal["auto", "mean", "max", "cls", "last", "flatten", "positions", "tokens"]
"""How positions become one row per sample, or one row per position."""
Precision = Literal["single", "double"]
"""Whether float32 features keep a part of their state in float32, or all of it in float64."""
Probe = Literal["logistic", "mse"]
"""The linear probes: logistic regression, or least squares to one-hot targets."""
Weighting = Literal["equal", "frequency", "papers"]
"""How classes count: each with 1/K, or each with its share n_k/N of the samples, in Σ_W and Σ_B alike; or as the papers
do, with n_k/N in Σ_W and 1/K in Σ_B, which is neither on classes of different size."""


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise unless an option is one of the values of a Literal type, or of a tuple.

    Raises
    ------
    ValueError
        With the choices there are, and the nearest one.

    Examples
    --------
    >>> from typing import Literal
    >>> check_choice("mode", "test", Literal["eval", "train"])
    Traceback (most recent call last):
    ValueError: `mode` must be one of 'eval', 'train', got 'test'
    """
    allowed = get_args(choices) or choices
    if not isinstance(value, str) or value not in allowed:
        hint = did_you_mean(value, allowed, most=1) if isinstance(value, str) else ""
        shown = visible(repr(value), most=60)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {shown}{hint}")
