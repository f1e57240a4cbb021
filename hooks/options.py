"""The options of single layers: pooling, and which tensor of the output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neurocollapse.hooks.errors import NoMatchError
from neurocollapse.hooks.outputs import Path
from neurocollapse.hooks.pool import MODES, Pool
from neurocollapse.hooks.select import Tap
from neurocollapse.support.checks import shown
from neurocollapse.support.names import did_you_mean


@dataclass(frozen=True)
class Reading:
    """How one tap is read; `path_is_common` where the path was given for all outputs at once."""

    pool: Pool
    path: Path | None
    path_is_common: bool

    def path_for(self, tap: Tap, value: Any) -> Path | None:
        """Return the path to the tensor; a common one does not apply to inputs, nor keys to a bare tensor."""
        if self.path_is_common and (tap.at_input or (isinstance(self.path, str) and isinstance(value, Tensor))):
            return None
        return self.path


def readings(
    taps: tuple[Tap, ...], pool: Pool | Mapping[str, Pool], output: Path | int | Mapping[str, Path | int] | None
) -> list[Reading]:
    """Return how each tap is read.

    Raises
    ------
    NoMatchError
        If an option names a layer that is not captured.
    ValueError, TypeError
        If a pooling is no known mode, or `output` no path.
    """
    pools, paths = _by_tap(pool, taps, "pool", "auto"), _by_tap(output, taps, "output", None)
    for choice in pools:
        if not callable(choice) and choice not in MODES:
            known = ", ".join(MODES)
            raise ValueError(f"`pool` must be one of {known}, a function or a dict of these, got {shown(choice)}")
    paths = [str(path) if isinstance(path, int) and not isinstance(path, bool) else path for path in paths]
    for path in paths:
        if path is not None and not callable(path) and not isinstance(path, str):
            raise TypeError(f"`output` must be a dotted path, an index, a function or a dict, got {shown(path)}")
    common = not isinstance(output, Mapping)
    return [Reading(choice, path, common) for choice, path in zip(pools, paths, strict=True)]


def _by_tap(option: Any, taps: tuple[Tap, ...], argument: str, default: Any) -> list[Any]:
    """The value of an option for each tap."""
    if not isinstance(option, Mapping):
        return [option] * len(taps)
    names = [tap.name for tap in taps]
    for name in option:
        if name not in names:
            raise NoMatchError(
                f"`{argument}` names {shown(name)}, which is no captured layer{did_you_mean(str(name), names)}"
            )
    return [option.get(name, default) for name in names]
