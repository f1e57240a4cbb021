"""How plain text becomes links and indices: what is a formula, what is a type, and what is left alone."""

import pytest
from site_pages.docstrings import linked, tidied
from site_pages.tex import spelled

from neurocollapse.support.indices import pieces


def typeset(text: str) -> str:
    """A text with its indices in HTML."""
    tags = {"": "{}", "_": "<sub>{}</sub>", "^": "<sup>{}</sup>"}
    return "".join(tags[mark].format(part) for mark, part in pieces(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W_{l+1}ᵀ − W_lW_lᵀ", "W<sub>l+1</sub>ᵀ − W<sub>l</sub>W<sub>l</sub>ᵀ"),
        ("(n/2)^{1/L}", "(n/2)<sup>1/L</sup>"),
        ("‖R‖_F², x̄_k, ρ^L√m", "‖R‖<sub>F</sub>², x̄<sub>k</sub>, ρ<sup>L</sup>√m"),
        ("λ_max of A", "λ<sub>max</sub> of A"),
        ("max_{k≠k'} cos", "max<sub>k≠k'</sub> cos"),
    ],
)
def test_indices_are_set(text: str, expected: str) -> None:
    assert typeset(text) == expected


@pytest.mark.parametrize(
    "text", ["num_classes", "num_k", "NORM_B", "W_out is", "BLOCK_ELEMENTS", "__init__", "a ^ b", "x_", "f(x)"]
)
def test_names_are_left_alone(text: str) -> None:
    assert typeset(text) == text


def test_no_character_is_lost() -> None:
    text = "S_l ≥ 1 − (32(θ + 4δ)/L)(L − l − 1), D_{l+1}/D_l and g^±_l"
    assert "".join(part for _, part in pieces(text)) == text.translate(str.maketrans("", "", "_^{}"))


def test_classes_in_prose_become_links_and_other_words_do_not() -> None:
    assert linked("Tensor of shape (samples, d_1)") == ":py:class:`Tensor <torch.Tensor>` of shape (samples, d\\_1)"
    assert linked("int, optional") == "*int, optional*"
    assert linked("list of ``x``") == "list of ``x``"


def test_absolute_values_are_no_substitutions_and_code_is_left_alone() -> None:
    lines = ["max |cos|, `a|b`", ">>> a | b", ".. math:: |x|", "   |y|", "Then |z|."]
    assert tidied("function", lines) == [
        "max \\|cos\\|, `a|b`", ">>> a | b", ".. math:: |x|", "   |y|", "Then \\|z\\|."
    ]  # fmt: skip


def test_several_names_of_one_field_become_several_fields() -> None:
    lines = [":ivar lower, upper: Interval", "    of the slope.", ":vartype lower, upper: float", "End."]
    assert tidied("class", lines) == [
        ":ivar lower: Interval", "    of the slope.", ":ivar upper: Interval", "    of the slope.",
        ":vartype lower: *float*", ":vartype upper: *float*", "End.",
    ]  # fmt: skip


def test_a_property_keeps_its_first_sentence() -> None:
    assert tidied("property", ["shape (d, N).", "", ":type: Inputs less their mean"]) == [
        "Inputs less their mean: shape (d, N).", "",
    ]  # fmt: skip


def test_pages_named_in_docstrings_become_links() -> None:
    assert tidied("function", ["See docs/theory.md, Theorem 1."]) == ["See :doc:`theory.md </theory>`, Theorem 1."]


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\Big(x\Big)", r"\Bigl(x\Bigl)"),
        (r"\sigma_2 \ge \dots", r"\sigma_2 \ge \ldots"),
        (r"\tilde z_i + \hat{y}_k", r"\tilde z{}_i + \hat{y}{}_k"),
        (r"\bar x_G^2", r"\overline x{}_G^2"),
        (r"\tfrac12 x + \frac1N y_12", r"\tfrac{1}{2} x + \frac1N y_{1}2"),
        ("^+", "{}^+"),
        (r"\bigl(x_i\bigr) \dotsb \barwedge", r"\bigl(x_i\bigr) \dotsb \barwedge"),
    ],
)
def test_formulas_are_spelled_as_the_converter_reads_them(tex: str, expected: str) -> None:
    assert spelled(tex) == expected
