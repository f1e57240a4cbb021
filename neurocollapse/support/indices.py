"""Indices of formulas that are written as plain text: W_{l+1}, ε^{2l}.

Docstrings and the page of theory write mathematics as one would in a letter, to be readable without a browser.
"""

import re
from collections.abc import Iterator

_SYMBOL = r"(?<=[^\W\d_]|[\u0300-\u036f₀-₉⁺⁻₊₋⁰ⁱ²³ᵀ∇±|‖)\]])(?<![a-z]{3})(?<![A-Z]{3})"
_IN_BRACES = r"(?<=\S)([_^])\{([^{}]+)\}"
_SHORT = r"([_^])(min|max|±|[^\W_](?![a-z]{2}|[A-Z]{2}))"
_INDEX = re.compile(f"{_IN_BRACES}|{_SYMBOL}{_SHORT}")
"""An index in braces, or of one letter after a symbol; snake_case_names are left alone."""


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """What stands on the line, below ("_") and above it ("^"), piece by piece.

    Examples
    --------
    >>> list(pieces("ε^{2l} of num_classes"))
    [('', 'ε'), ('^', '2l'), ('', ' of num_classes')]
    """
    end = 0
    for found in _INDEX.finditer(text):
        if found.start() > end:
            yield "", text[end : found.start()]
        mark, index = (group for group in found.groups() if group is not None)
        yield mark, index
        end = found.end()
    if end < len(text):
        yield "", text[end:]
