"""Symbols of quantities as text with indices and exponents, which browsers draw without a script."""

import re

from markupsafe import Markup, escape

_NAMES = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell pm mp cdot times dagger top infty perp sum prod "
    "partial le ge ne to langle rangle lVert rVert ldots dots"
)
SIGNS = dict(zip(_NAMES.split(), "αβγδϵεζηθκλμνξπρστϕφχψωΓΔΘΛΞΠΣΦΨΩℓ±∓·×†⊤∞⟂∑∏∂≤≥≠→⟨⟩‖‖……", strict=True))
SIGNS |= {"quad": " ", "left": "", "right": ""}
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0304", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307"}
_ACCENTED = rf"\\(?:wide)?({'|'.join(_ACCENTS)})"
_SPELLINGS = (
    (r"\\\|", "‖"),
    (r"\\([{}])", lambda found: f"&#{ord(found[1])};"),
    (r"\\[,;:! ]", " "),
    ("-", "−"),
    (r"(\\[td]?frac)(\w)", r"\1{\2}"),
    (rf"({_ACCENTED}|\\sqrt)(?: (\w)|(\\[A-Za-z]+))", lambda found: f"{found[1]}{{{found[3] or found[4]}}}"),
    (r"([_^])(\\[A-Za-z]+(?:\{[^{}]*\})?|&#?\w+;|[^\s{}\\])", r"\1{\2}"),
    (r"\\([A-Za-z]+)(?![A-Za-z{])", lambda found: SIGNS.get(found[1], rf"\mathrm{{{found[1]}}}")),
)
"""What may be written in several ways, as the one that is read; commands without an argument as what they mean."""
_STEPS = (
    (r"\\(?:math[a-z]+|text|operatorname)\{([^{}]*)\}", r'<span class="upright">\1</span>'),
    (_ACCENTED + r"\{([^{}]*)\}", lambda found: found[2] + _ACCENTS[found[1]]),
    (r"\\[td]?frac\{([^{}]*)\}\{([^{}]*)\}", lambda found: f"{_one(found[1])} / {_one(found[2])}"),
    (r"\\sqrt\{([^{}]*)\}", lambda found: f"√{_one(found[1])}"),
    (r"_\{([^{}]*)\}", r"<sub>\1</sub>"),
    (r"\^\{([^{}]*)\}", r"<sup>\1</sup>"),
    (r"(?<![\\_^}a-z])\{([^{}]*)\}", r"\1"),
)
"""What stands in a pair of braces, from the innermost pair outwards."""


def formula(tex: str) -> Markup:
    r"""A formula in TeX, without its dollar signs, as HTML: indices, exponents, Greek letters, accents, upright words.

    A command that is not known, such as an operator, is shown by its name.

    Examples
    --------
    >>> print(formula(r"\mathrm{tr}\,\Sigma_W"))
    <span class="formula"><span class="upright">tr</span> Σ<sub>W</sub></span>
    """
    text = str(escape(tex))
    for written, read in _SPELLINGS:
        text = re.sub(written, read, text)
    before = ""
    while before != text:
        before = text
        for written, shown in _STEPS:
            text = re.sub(written, shown, text)
    return Markup(f'<span class="formula">{text}</span>')


def _one(part: str) -> str:
    """A part of a fraction, in parentheses where it is a sum or a fraction."""
    is_one = part.startswith("√") or not re.search(r"[−+/]", re.sub(r"<[^>]+>", "", part))
    return part if is_one else f"({part})"
