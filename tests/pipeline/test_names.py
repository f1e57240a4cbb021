"""Globs over dotted names against a naive double, the same everywhere, and the suggestions for mistyped names."""

import copy
import re
from collections import OrderedDict
from fnmatch import fnmatchcase
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neurocollapse.dynamics.matrices import named_matrices
from neurocollapse.hooks.select import select
from neurocollapse.lowrank import LoRA, LowRankLinear, factorize, inject
from neurocollapse.support.names import did_you_mean, glob, is_glob, matching

SEGMENTS = st.sampled_from(["a", "b", "aa", "ab"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "?", "*", "*", "a*", "*b", "?b"]), max_size=3)


def fits(parts: list[str], pattern: list[str]) -> bool:
    """The double: segment by segment, ``**`` as a leading or inner segment stands for any number of them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


@settings(max_examples=300)
@given(name=NAMES, before=PATTERNS, after=PATTERNS.filter(len), crosses=st.booleans())
def test_globs_are_matched_segment_by_segment(name: str, before: list[str], after: list[str], crosses: bool) -> None:
    pattern = [*before, "**", *after] if crosses else [*before, *after]
    assert bool(glob(".".join(pattern)).fullmatch(name)) == fits(name.split("."), pattern)


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("**", ["a", "b0", "b1", "a.b0", "a.b0.c", "a+", "b[0]"]),
        ("a.**", ["a.b0", "a.b0.c"]),
        ("b[0-9]", ["b0", "b1"]),
        ("b[!0]", ["b1"]),
        ("a+", ["a+"]),
        ("b", []),
        ("a?b0", []),
        ("b[0]", ["b0", "b[0]"]),
        ("a[[+]", ["a+"]),
        (r"a[\]", []),
        (r"a[\d+]", ["a+"]),
        ("b[^0]", ["b1"]),
    ],
    ids=[
        "everything",
        "below",
        "set",
        "complement",
        "no regular expression",
        "no part of a name",
        "no dot",
        "a name itself",
        "set of brackets",
        "set of a backslash",
        "no class of characters",
        "complement as in shells",
    ],
)
def test_special_characters(pattern: str, fitting: list[str]) -> None:
    assert matching(pattern, ["a", "b0", "b1", "a.b0", "a.b0.c", "a+", "b[0]"]) == fitting


@pytest.mark.parametrize("pattern", ["*", "body.*", "**.query", "body.**", "body.?.query", "head"])
def test_a_glob_chooses_the_same_layers_everywhere(pattern: str) -> None:
    block = {"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)}
    body = nn.ModuleList([nn.ModuleDict(block), nn.ModuleDict({"query": nn.Linear(4, 4)})])
    model = nn.ModuleDict({"body": body, "query": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    dense = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    expected = {name for name in dense if glob(pattern).fullmatch(name)}
    finders = {
        "capture": lambda: {tap.path for tap in select(model, pattern)} & dense,
        "tracker": lambda: set(named_matrices(model, pattern)),
        "adapters": lambda: set(inject(copy.deepcopy(model), pattern, kind=LoRA(rank=1))),
        "factorize": lambda: low_rank(factorize(model, pattern, 1)),
    }
    for finder in finders.values():
        if expected:
            assert finder() == expected
        else:
            with pytest.raises(ValueError, match="matches no"):
                finder()


def low_rank(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, LowRankLinear)}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("linear", {"body.0", "body.2", "head"}),
        (["linear", "!body.*"], {"head"}),
        ("!head", {"body.0", "body.2"}),
        (nn.Linear, {"body.0", "body.2", "head"}),
        ([re.compile("body.*"), "head", "!body.0"], {"body.2", "head"}),
        (lambda name, module: name.endswith("2"), {"body.2"}),
    ],
    ids=["preset", "but", "all but", "type", "mixed", "predicate"],
)
def test_layers_have_one_grammar_everywhere(layers: object, expected: set[str]) -> None:
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model = nn.Sequential(OrderedDict(body=body, head=nn.Linear(4, 2)))
    wrapped = torch.compile(model, backend="eager")
    for one in (model, wrapped):
        assert {tap.path for tap in select(one, layers)} & {"body.0", "body.2", "head"} == expected
        assert set(named_matrices(one, layers)) == expected
        assert low_rank(factorize(one, layers, 1)) == expected
        adapters = inject(one, layers, kind=LoRA(rank=1))
        assert set(adapters) == expected
        adapters.remove()


@pytest.mark.parametrize("layers", ["penultimate", "head@in", "linear@in"])
def test_a_weight_has_no_input(layers: str) -> None:
    model = nn.Sequential(OrderedDict(body=nn.Linear(4, 4), head=nn.Linear(4, 2)))
    for finder in (named_matrices, partial(factorize, rank=1), partial(inject, kind=LoRA(rank=1))):
        with pytest.raises(ValueError, match="is the input of"):
            finder(model, layers)


@pytest.mark.parametrize("pattern", ["a[3-1]", "a[!]", "a.[^].b"])
def test_brackets_without_characters_are_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"has brackets that list no characters; write them like \[0-3\] or \[!ab\]$"):
        glob(pattern)


def test_only_globs_are_globs() -> None:
    assert [text for text in ("a.b", "a.*", "a?", "[ab]", "a!b") if is_glob(text)] == ["a.*", "a?", "[ab]"]


def test_suggestions() -> None:
    known = ["", "layers.0", "layers.1", "layers.2", "layers.3", "head"]
    assert did_you_mean("layer.0", known, most=1) == "; did you mean 'layers.0'?"
    assert did_you_mean("layers", known).count(" or ") == 2
    assert did_you_mean("heda", known, shown_as={"head": "head:ROOT"}) == "; did you mean 'head:ROOT'?"
    assert did_you_mean("zzz", known) == ""
    assert did_you_mean("zzz", known, otherwise="see --list") == "; see --list"
