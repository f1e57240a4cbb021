"""Formulas in TeX become MathML that is well formed, whatever is written in them."""

from xml.etree import ElementTree

import pytest

from neurocollapse.metrics import QUANTITIES
from neurocollapse.support.mathml import mathml

PRIME = "<msup><mi>k</mi><mo>′</mo></msup>"


def inside(tex: str) -> str:
    """A formula without the element around it."""
    return mathml(tex).partition(">")[2].removesuffix("</math>")


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"D_\ell", "<msub><mi>D</mi><mi>ℓ</mi></msub>"),
        (r"D_{\ell-1}", "<msub><mi>D</mi><mrow><mi>ℓ</mi><mo>−</mo><mn>1</mn></mrow></msub>"),
        (r"S_\ell^{\mathrm{unc}}", "<msubsup><mi>S</mi><mi>ℓ</mi><mi>unc</mi></msubsup>"),
        (r"x_\mathrm{B}", '<msub><mi>x</mi><mi mathvariant="normal">B</mi></msub>'),
        (r"\frac1{\sqrt K}", "<mfrac><mn>1</mn><mrow><msqrt><mi>K</mi></msqrt></mrow></mfrac>"),
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"\bar W", '<mover accent="true"><mi>W</mi><mo stretchy="false">¯</mo></mover>'),
        (r"\left\| W \right\|", "<mo>‖</mo><mi>W</mi><mo>‖</mo>"),
        (r"\left| x \right|", '<mo lspace="0" rspace="0">|</mo><mi>x</mi><mo lspace="0" rspace="0">|</mo>'),
        (r"\min_k x", '<munder><mi>min</mi><mi>k</mi></munder><mspace width="0.17em"></mspace><mi>x</mi>'),
        ("k'", PRIME),
        ("x_k'", "<msubsup><mi>x</mi><mi>k</mi><mo>′</mo></msubsup>"),
        ("k'^2", "<msup><mi>k</mi><mrow><mo>′</mo><mn>2</mn></mrow></msup>"),
        ("<_&", "<msub><mo>&lt;</mo><mo>&amp;</mo></msub>"),
        ("0.025", "<mn>0.025</mn>"),
        (r"\unknown", "<mi>unknown</mi>"),
        (r"\text{of  all} x", '<mi>of all</mi><mspace width="0.17em"></mspace><mi>x</mi>'),
    ],
)
def test_a_formula_is_set(tex: str, shown: str) -> None:
    assert inside(tex) == shown


@pytest.mark.parametrize("tex", [r"\frac{a", "a_", "x}", r"\sqrt", "a_b_c", r"\mathrm{x", "\\"])
def test_what_is_malformed_is_shown_as_it_is_written(tex: str) -> None:
    assert ElementTree.fromstring(mathml(tex)).findtext("mtext") == tex


@pytest.mark.parametrize("quantity", [one for one in QUANTITIES if one.symbol], ids=lambda one: one.name)
def test_every_symbol_of_the_library_is_well_formed_and_understood(quantity) -> None:
    formula = ElementTree.fromstring(mathml(quantity.symbol))
    assert formula.get("alttext") == quantity.symbol
    assert formula.find(".//mtext") is None
    assert not set("".join(formula.itertext())) & set("\\_$")
