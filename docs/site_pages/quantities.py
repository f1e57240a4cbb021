"""The page of quantities, from the entries themselves: what each is, what it needs, and its limit at collapse."""

from itertools import groupby

from neurocollapse.metrics import QUANTITIES, Quantity

_PAGE = """\
# Quantities

What `nc.analyze` and `nc.measure` can measure of a layer: {number} numbers, chosen with `quantities=` by name, by
family, or with `"all"`. Without it, all that need neither a second pass, nor the covariance, nor kept features. Each is
a variable of the dataset and says all of this in its attributes; [your own](../guides/own_quantities.md) join them in
the same way.

{sections}
"""
_NEEDS = {
    "covariance": "`covariance=True`",
    "classifier": "the classifier's weight: a tap at its input, such as `penultimate`",
    "reader": "the linear layer that reads the features: a tap at its input, such as `penultimate`",
    "second_pass": "a second pass over the loader",
    "logits": "the model's logits",
    "features": "`probes=True`",
    "influence": "`uncertainty=True`",
    "ood": "`ood_loader=`",
}
_WORDS = {
    "within": "weighted as `weighting` says",
    "between": "weighted as `weighting` says",
    "probe": "the classifier that `probes` names",
}


def pages() -> dict[str, str]:
    """Name → content of the one page."""
    families = groupby(sorted(QUANTITIES, key=_order), key=lambda quantity: quantity.family)
    sections = [f"## {family}\n\n" + "\n".join(map(_entry, members)) for family, members in families]
    return {"quantities.md": _PAGE.format(number=len(QUANTITIES), sections="\n".join(sections))}


def _order(quantity: Quantity) -> int:
    """Where its family is first listed."""
    return next(index for index, other in enumerate(QUANTITIES) if other.family == quantity.family)


def _entry(quantity: Quantity) -> str:
    """A quantity as an item of a list of definitions."""
    symbol = f" ${quantity.symbol}$" if quantity.symbol else ""
    along = f"along {', '.join(quantity.dims)}" if quantity.dims else "one number"
    facts = [f"{_sentence(quantity.long_name)}{symbol}, {along}."]
    if quantity.convention:
        facts.append(f"{_sentence(quantity.attributes(**_WORDS)['convention'])}.")
    if quantity.at_collapse is not None:
        facts.append(f"At full collapse {quantity.at_collapse:g}.")
    if quantity.better:
        facts.append(f"{quantity.better.capitalize()} is more collapsed.")
    if quantity.needs:
        facts.append(f"Needs {' and '.join(_NEEDS[need] for need in quantity.needs)}.")
    if quantity.reference and "{" not in quantity.reference:
        facts.append(f"Source: {quantity.reference}.")
    return f"`{quantity.name}`\n: {' '.join(facts)}\n"


def _sentence(text: str) -> str:
    """A text with a capital where it begins with a word, and not with a formula."""
    return text[0].upper() + text[1:] if text[:2].islower() and not text.startswith("tr ") else text
