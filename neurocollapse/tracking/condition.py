"""Conditions as text, such as ``compression@penultimate < 0.01``: parsed, and never evaluated as code."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from neurocollapse.support.names import did_you_mean, matching
from neurocollapse.support.text import listed, visible

OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
PENULTIMATE, LAST, ALL = "penultimate", "last", "*"
GRAMMAR = "write QUANTITY@LAYER OP NUMBER, such as 'compression@penultimate < 0.01'"
_SPACE = r"[ \t]*"
_EXPRESSION = re.compile(
    rf"{_SPACE}(?P<quantity>\w+){_SPACE}"
    # The names of layers may hold spaces, and globs a "!".
    rf"(?:@{_SPACE}(?P<layer>(?:[^\s<>=!]|!(?!=)|[ \t]+(?![\s<>=!]))+){_SPACE})?"
    rf"(?P<operator>{'|'.join(OPERATORS)}){_SPACE}"
    rf"(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|[-+]?inf){_SPACE}",
    flags=re.IGNORECASE,
)


@dataclass(frozen=True)
class Condition:
    """A quantity at some layers compared with a number.

    Attributes
    ----------
    quantity : str
        A variable of the dataset.
    layer : str
        A layer's name or a glob over them; "last" is the last layer, "penultimate" the last that was measured at its
        input, and "*" all of them. A name wins over these words. Empty: the quantity is one of the whole network.
    operator : {"<", "<=", ">", ">=", "==", "!="}
    number : float

    Examples
    --------
    >>> Condition.parse("compression@penultimate < 0.01")
    Condition(quantity='compression', layer='penultimate', operator='<', number=0.01)
    """

    quantity: str
    layer: str
    operator: str
    number: float

    @classmethod
    def parse(cls, expression: str) -> "Condition":
        """Read a condition from its text, ``QUANTITY@LAYER OP NUMBER``.

        Parameters
        ----------
        expression : str
            Such as "compression@penultimate < 0.1".

        Raises
        ------
        TypeError
            If the expression is no text.
        ValueError
            If it is not of that form.
        """
        if not isinstance(expression, str):
            raise TypeError(f"an expression must be a string, got {type(expression).__name__}; {GRAMMAR}")
        found = _EXPRESSION.fullmatch(expression)
        if found is None:
            raise ValueError(f"{visible(expression, most=80)!r} is no expression; {GRAMMAR}")
        return cls(found["quantity"], found["layer"] or "", found["operator"], float(found["number"]))

    def __str__(self) -> str:
        where = f"@{self.layer}" if self.layer else ""
        return f"{self.quantity}{where} {self.operator} {self.number:g}"

    def meets(self, values: Any) -> Any:
        """Whether numbers meet the condition; an undefined one (NaN) does not.

        Parameters
        ----------
        values : number or array
            What is held against the condition.
        """
        return OPERATORS[self.operator](values, self.number) & ~np.isnan(values)

    def layers(self, names: Sequence[str]) -> list[str]:
        """The layers that the condition means, among those there are.

        Parameters
        ----------
        names : sequence of str
            The layers of the dataset.

        Raises
        ------
        ValueError
            If there is none; the message names those there are.
        """
        if self.layer in names:
            return [self.layer]
        inputs = [name for name in names if "@in" in name]
        words = {ALL: list(names), LAST: list(names[-1:]), PENULTIMATE: inputs[-1:]}
        found = words[self.layer] if self.layer in words else matching(self.layer, names)
        if not found:
            missing = "no layer was measured at its input" if self.layer == PENULTIMATE else f"no layer {self.layer!r}"
            hint = did_you_mean(self.layer, names, otherwise=f"there are {listed(names)}")
            raise ValueError(f"{self}: {missing}{hint}")
        return found

    def check_quantity(self, names: Sequence[str]) -> None:
        """Raise, with the nearest names, unless the quantity is one of those.

        Parameters
        ----------
        names : sequence of str
            The quantities of the dataset.
        """
        if self.quantity not in names:
            hint = did_you_mean(self.quantity, names, otherwise=f"there are {listed(names, most=5)}")
            raise ValueError(f"{self}: there is no quantity {self.quantity!r}{hint}")
