"""Symbols of quantities as text with indices and exponents, which browsers draw without a script."""

import re

from markupsafe import Markup, escape

_NAMES = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell pm mp cdot times dagger top infty perp sum prod "
    "partial le ge ne to langle rangle lVert rVert ldots dots"
)
_SIGNS = dict(zip(_NAMES.split(), "αβγδϵεζηθκλμνξπρστϕφχψωΓΔΘΛΞΠΣΦΨΩℓ±∓·×†⊤∞⟂∑∏∂≤≥≠→⟨⟩‖‖……", strict=True))
_SIGNS |= {"quad": " ", "left": "", "right": ""}
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0304", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307"}
_STEPS = (
    (r"\\(?:math[a-z]+|text|operatorname)\{([^{}]*)\}", r'<span class="upright">\1</span>'),
    (rf"\\(?:wide)?({'|'.join(_ACCENTS)})\{{([^{{}}]*)\}}", lambda found: found[2] + _ACCENTS[found[1]]),
    (r"\\[td]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1 / \2"),
    (r"_\{([^{}]*)\}", r"<sub>\1</sub>"),
    (r"\^\{([^{}]*)\}", r"<sup>\1</sup>"),
    (r"(?<![\\_^}a-z])\{([^{}]*)\}", r"\1"),
)
"""What stands in a pair of braces, from the innermost pair outwards."""


def formula(tex: str) -> Markup:
    r"""A formula in TeX, without its dollar signs, as HTML: indices, exponents, Greek letters, accents, upright words.

    A command that is not known is shown by its name.

    Examples
    --------
    >>> print(formula(r"\mathrm{tr}\,\Sigma_W"))
    <span class="formula"><span class="upright">tr</span> Σ<sub>W</sub></span>
    """
    text = re.sub(r"\\[,;:! ]", " ", str(escape(tex)).replace(r"\|", "‖")).replace("-", "−")
    text = re.sub(r"\\([A-Za-z]+)(?![A-Za-z{])(?: (?=[A-Za-z]))?", lambda found: _SIGNS.get(found[1], found[1]), text)
    text = re.sub(r"([_^])(&\w+;|[^\s{}])", r"\1{\2}", text)
    before = ""
    while before != text:
        before = text
        for pattern, shown in _STEPS:
            text = re.sub(pattern, shown, text)
    return Markup(f'<span class="formula">{text}</span>')
