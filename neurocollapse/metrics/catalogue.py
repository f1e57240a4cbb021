"""Every quantity there is, and which of them somebody asks for."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from neurocollapse.metrics import (
    collapse,
    decay,
    decisions,
    depth,
    duality,
    geometry,
    imbalance,
    margin,
    matrices,
    outside,
    plasticity,
    probing,
    ranks,
    transferability,
    unbiased,
    uncertainty,
    variability,
)
from neurocollapse.metrics.fuzziness import QUANTITIES as OF_FUZZINESS
from neurocollapse.metrics.margin_efficiency import QUANTITIES as OF_MARGIN_EFFICIENCY
from neurocollapse.metrics.quantity import REMEDIES, Need, Quantity, QuantityError
from neurocollapse.support.checks import flag, shown
from neurocollapse.support.names import did_you_mean

QUANTITIES: tuple[Quantity, ...] = (
    *variability.QUANTITIES,
    *unbiased.QUANTITIES,
    *decay.QUANTITIES,
    *uncertainty.QUANTITIES,
    *geometry.QUANTITIES,
    *OF_FUZZINESS,
    *collapse.QUANTITIES,
    *imbalance.QUANTITIES,
    *duality.QUANTITIES,
    *decisions.QUANTITIES,
    *margin.QUANTITIES,
    *OF_MARGIN_EFFICIENCY,
    *matrices.QUANTITIES,
    *probing.QUANTITIES,
    *depth.QUANTITIES,
    *ranks.QUANTITIES,
    *transferability.QUANTITIES,
    *plasticity.QUANTITIES,
    *outside.QUANTITIES,
)
"""All quantities, in the order in which tables show them."""
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(quantity.family for quantity in QUANTITIES))
"""What quantities can be chosen with, beside their names."""

Choice = str | Quantity | Sequence[str | Quantity] | None
"""Names, families, own quantities, "all", or None for all that need no second pass, covariance or kept features."""


_GIVEN: frozenset[Need] = frozenset({"covariance", "influence", "ood"})
"""What the arguments of a call decide on, and not the model."""


class Chosen(NamedTuple):
    """The quantities that are to be measured, without duplicates.

    Attributes
    ----------
    quantities : tuple of Quantity
    named : frozenset of str
        Those that were asked for themselves, or with a family that as a whole needs something, so that what they lack
        is an error and no reason to leave them out.
    """

    quantities: tuple[Quantity, ...]
    named: frozenset[str]

    def including(self, *families: str) -> "Chosen":
        """These quantities and all of some families."""
        more = chosen_quantities(families).quantities
        return self._replace(quantities=tuple(dict.fromkeys((*self.quantities, *more))))

    def need(self, need: Need, given: Collection[Need] = ()) -> bool:
        """Whether any of them needs this, beside what is given anyway."""
        return any(need in quantity.lacks(given.__contains__) for quantity in self.quantities)

    def require(self, need: Need, met: bool) -> None:
        """Raise if a need of a quantity that was named itself will not be met."""
        if met:
            return
        for quantity in self.quantities:
            if quantity.name in self.named and need in quantity.needs:
                raise QuantityError(f"quantity {quantity.name!r} {REMEDIES[need]}")


def chosen_quantities(choice: Choice, *, pairs: bool = False) -> Chosen:
    """The quantities that `quantities=` asks for, and with `pairs` the matrices over pairs of classes.

    Parameters
    ----------
    choice : str, Quantity, a sequence of them, or None
        Names, families, entries of your own or "all"; None for the default ones.
    pairs : bool, default False
        Add the matrices over pairs of classes.

    Raises
    ------
    QuantityError
        If a name is neither a quantity, a family nor "all", or two quantities have one name.
    TypeError
        If the choice holds something else.

    Examples
    --------
    >>> [quantity.name for quantity in chosen_quantities("compression, geometry").quantities]
    ['compression', 'separation', 'separation_etf', 'discrimination']
    """
    if flag("pairs", pairs):
        chosen = chosen_quantities(choice)
        return Chosen(tuple(dict.fromkeys((*chosen.quantities, *matrices.QUANTITIES))), chosen.named)
    if choice is None:
        return Chosen(tuple(quantity for quantity in QUANTITIES if quantity.default), frozenset())
    items = [choice] if isinstance(choice, str | Quantity) else list(_checked(choice))
    found: dict[str, Quantity] = {}
    named: set[str] = set()
    for item in (part for one in items for part in _parts(one)):
        own = _matches(item)
        if isinstance(item, Quantity) or own[0].name == item or _have_one_need(own):
            named.update(quantity.name for quantity in own)
        for quantity in own:
            if found.setdefault(quantity.name, quantity) is not quantity:
                raise QuantityError(f"`quantities` holds two named {quantity.name!r}; give one of them another name")
    return Chosen(tuple(found.values()), frozenset(named))


def _have_one_need(family: list[Quantity]) -> bool:
    """Whether all quantities need one thing that a call has or has not, without which none of them is measured."""
    return any(all(need in quantity.needs for quantity in family) for need in _GIVEN)


def _checked(choice: Any) -> Sequence[Any]:
    """A list of names and quantities, at least one."""
    if not isinstance(choice, list | tuple) or not choice:
        raise TypeError(
            f"`quantities` must be names, families or Quantity entries, got {shown(choice)}; leave it out for all"
        )
    return choice


def _parts(item: Any) -> list[Any]:
    """Names between commas."""
    return [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]


def _matches(item: Any) -> list[Quantity]:
    """The quantities of one name, family or entry."""
    if isinstance(item, Quantity):
        return [item]
    if not isinstance(item, str):
        raise TypeError(f"`quantities` must hold names, families or Quantity entries, got {type(item).__name__}")
    found = [quantity for quantity in QUANTITIES if item in ("all", quantity.name)]
    found = found or [quantity for quantity in QUANTITIES if quantity.family == item]
    if not found:
        known = (*(quantity.name for quantity in QUANTITIES), *FAMILIES)
        hint = did_you_mean(item, known, otherwise=f"families are {', '.join(FAMILIES)}")
        raise QuantityError(f"there is no quantity {shown(item)}{hint}")
    return found
