"""Sums by layer as they were behind a batch, where some layers wait for an answer before they add theirs."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from neurocollapse.support.transfer import sent_back


def site_of(key: str) -> str:
    """The layer that a sum is of, by its name "layer/index"."""
    return key.rpartition("/")[0]


class LateSums:
    """The sums behind a batch, on their way to the CPU; those of layers that wait follow when they are whole.

    Parameters
    ----------
    totals : mapping of str to Tensor
        The sums now, by names "layer/index".
    late, held : iterable of str
        Layers that have asked the device for something to add, and layers whose rows are held back until they may ask.

    Attributes
    ----------
    awaited : dict of str to bool
        Layers whose sums lack a part of the batch, and whether their rows are held back still.
    """

    def __init__(self, totals: Mapping[str, Tensor], late: Iterable[str], held: Iterable[str]) -> None:
        held = set(held)
        self.awaited = {site: site in held for site in (*late, *held)}
        self._parts: list[Callable[[], dict[str, Tensor]]] = []
        self._send({key: total for key, total in totals.items() if site_of(key) not in self.awaited})

    def note(self, site: str, totals: Mapping[str, Tensor], *, was_held: bool, is_late: bool) -> None:
        """Learn that a layer has added what it had asked for, or, if it `was_held`, what was held back.

        To be called before anything of a later batch is added. It is whole unless it has asked for something else.
        """
        if self.awaited.get(site) != was_held:
            return
        self.awaited[site] = False
        if not is_late:
            del self.awaited[site]
            self._send({key: total for key, total in totals.items() if site_of(key) == site})

    def forget(self, site: str) -> None:
        """Wait for a layer no longer."""
        self.awaited.pop(site, None)

    def numbers(self) -> dict[str, Tensor]:
        """The sums on the CPU; waits for what is still on its way."""
        return {key: total for part in self._parts for key, total in part().items()}

    def _send(self, totals: Mapping[str, Tensor]) -> None:
        self._parts.append(sent_back(totals))
