"""Formulas that are written as plain text, as the messages of theorems have them, with their indices set."""

from markupsafe import Markup, escape

from neurocollapse.support.indices import pieces

_TAGS = {"_": "sub", "^": "sup"}


def typeset(text: str) -> Markup:
    """A text with indices and exponents below and above the line; names of files and variables are left alone.

    Examples
    --------
    >>> print(typeset("D_l/D_{l−1} of layer_2"))
    D<sub>l</sub>/D<sub>l−1</sub> of layer_2
    """
    parts = [
        Markup("<{0}>{1}</{0}>").format(_TAGS[mark], part) if mark else escape(part) for mark, part in pieces(text)
    ]
    return Markup("").join(parts)
