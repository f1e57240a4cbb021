r"""Formulas in TeX as MathML, which browsers draw without a script, a font or a network.

Reads what symbols of quantities are written in: letters, indices, exponents, fractions, roots, accents, upright words,
delimiters. What it does not know is shown by its name, and a formula that is malformed as it is written.
"""

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell"
)
_OPERATORS = (
    "pm mp cdot times dagger top infty perp sum prod partial le leq ge geq ne neq to in approx propto langle rangle "
    "lVert rVert ldots dots cdots colon"
)
_IDENTIFIERS = dict(zip(_LETTERS.split(), "αβγδϵεζηθκλμνξπρστϕφχψωΓΔΘΛΞΠΣΦΨΩℓ", strict=True))
_SIGNS = dict(zip(_OPERATORS.split(), "±∓·×†⊤∞⟂∑∏∂≤≤≥≥≠≠→∈≈∝⟨⟩‖‖……⋯:", strict=True)) | {"|": "‖", "{": "{", "}": "}"}
_SPACES = {",": "0.17em", ":": "0.22em", ";": "0.28em", "quad": "1em", "qquad": "2em", " ": "0.25em"}
_ACCENTS = {
    "hat": "^", "widehat": "^", "bar": "¯", "overline": "¯", "tilde": "~", "widetilde": "~", "vec": "→", "dot": "˙",
}  # fmt: skip
SIGNS = _IDENTIFIERS | {name: sign for name, sign in _SIGNS.items() if name not in "{}"}
"""Letters and operators as characters, by their names in TeX."""
_FENCES = "()[]|‖⟨⟩{}"
_LIMITS = ("max", "min", "argmax", "argmin", "sup", "inf", "lim")
"""Functions that have what they run over below them, in a formula on a line of its own as in one within the text."""
_TOKEN = re.compile(r"\\(?:mathrm|text|operatorname)\s*\{[^{}\\]*\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\S")


def mathml(tex: str) -> Markup:
    r"""A formula in TeX, without its dollar signs, as a MathML element; what it is in TeX is its `alttext`.

    Examples
    --------
    >>> print(mathml(r"\Sigma_W"))
    <math alttext="\Sigma_W"><msub><mi>Σ</mi><mi>W</mi></msub></math>
    """
    try:
        body = "".join(_Reader(tex).row(""))
    except ValueError:
        body = f"<mtext>{escape(tex)}</mtext>"
    return Markup('<math alttext="{}">{}</math>').format(tex, Markup(body))


class _Reader:
    """The tokens of a formula, read from left to right; raises ValueError where one is missing."""

    def __init__(self, tex: str) -> None:
        self._tokens = _TOKEN.findall(tex)
        self._at = 0

    def row(self, end: str) -> Iterator[str]:
        """Elements up to the token that ends the group, or to the end of the formula."""
        while self._peek() != end:
            yield self._scripted()
        self._at += bool(end)

    def _peek(self) -> str:
        """The next token, or nothing at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        """The next token, which is then read."""
        token = self._peek()
        if not token:
            raise ValueError("the formula ends where something must follow")
        self._at += 1
        return token

    def _scripted(self) -> str:
        """One element with its index and exponent."""
        is_script_alone = self._peek() in ("_", "^")
        base = "<mrow></mrow>" if is_script_alone else self._element()
        scripts = {"_": "", "^": ""}
        while self._peek() in ("_", "^", "'"):
            mark = self._next()
            if mark == "'":
                scripts["^"] += "<mo>′</mo>"
            elif scripts[mark] and mark == "_":
                raise ValueError("a double index")
            else:
                scripts[mark] += self._element()
        index, exponent = scripts["_"], _one(scripts["^"])
        if index and not exponent and any(base == f"<mi>{name}</mi>" for name in _LIMITS):
            whole = f"<munder>{base}{index}</munder>"
        elif index and exponent:
            whole = f"<msubsup>{base}{index}{exponent}</msubsup>"
        else:
            whole = f"<msub>{base}{index}</msub>" if index else f"<msup>{base}{exponent}</msup>" if exponent else base
        return whole + self._space_after(base)

    def _space_after(self, base: str) -> str:
        """The thin space between a word, such as max or tr, and what it applies to."""
        is_word = re.fullmatch("<mi>[^<>]{2,}</mi>", base) is not None
        following = self._peek().lstrip("\\")
        applies = following[:1].isalnum() and following not in ("right", "ne", "le", "ge", "cdot", "times", "in", "to")
        return f'<mspace width="{_SPACES[","]}"></mspace>' if is_word and applies else ""

    def _element(self) -> str:
        """One element without index and exponent."""
        token = self._next()
        if token == "{":
            return _row("".join(self.row("}")))
        if token == "}":
            raise ValueError("a brace that closes nothing")
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        return f"<mi>{escape(token)}</mi>" if token.isalpha() else _operator("−" if token == "-" else token)

    def _command(self, name: str) -> str:
        """What a command stands for, with its arguments."""
        if name in ("left", "right", "bigl", "bigr"):
            sign = self._next()
            return "<mrow></mrow>" if sign == "." else _operator(_SIGNS.get(sign[1:], sign), True)
        if name in ("frac", "tfrac", "dfrac"):
            return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self._argument()}</msqrt>"
        if name in _ACCENTS:
            return f'<mover accent="true">{self._argument()}<mo stretchy="false">{_ACCENTS[name]}</mo></mover>'
        if name.endswith("}") and "{" in name:
            return _name(" ".join(name[name.index("{") + 1 : -1].split()))
        if name in ("mathrm", "text", "operatorname"):
            if self._peek() == "{":
                raise ValueError("a brace that is not closed")
            return _name(self._next())
        if not name:
            raise ValueError("a backslash that ends the formula")
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}"></mspace>'
        if name in _IDENTIFIERS:
            return f"<mi>{_IDENTIFIERS[name]}</mi>"
        return _operator(_SIGNS[name]) if name in _SIGNS else _name(name)

    def _argument(self) -> str:
        """A group, or the one digit or element that is given without braces."""
        token = self._peek()
        if token[:1].isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._element()


def _row(body: str) -> str:
    """Elements as one; a single element needs no row around it."""
    return body if re.fullmatch(r"<(m[ino])>[^<>]*</\1>", body) else f"<mrow>{body}</mrow>"


def _one(body: str) -> str:
    """Exponent and primes as one element."""
    return f"<mrow>{body}</mrow>" if body.startswith("<mo>′</mo>") and len(body) > len("<mo>′</mo>") else body


def _name(text: str) -> str:
    """Words of several letters, which are upright by themselves, or one letter, which is made so."""
    upright = ' mathvariant="normal"' if len(text) == 1 else ""
    return f"<mi{upright}>{escape(text)}</mi>"


def _operator(sign: str, stretches: bool = False) -> str:
    """A sign; fences grow with what they enclose only where `left` and `right` ask for it."""
    size = ' stretchy="false"' if sign in _FENCES and not stretches else ""
    size += ' lspace="0" rspace="0"' if sign == "|" else ""  # which browsers take for a sign between two numbers
    return f"<mo{size}>{escape(sign)}</mo>"
