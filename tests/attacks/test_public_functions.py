"""Mistakes in the arguments of public functions are refused by this package, in one line."""

import contextlib
import io
import os
import runpy
import traceback
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib.pyplot as plt
import pytest
from hypothesis import strategies as st

import neurocollapse

CALLS = runpy.run_path(str(Path(__file__).with_name("public_calls.py")))
WRONG, NAMES = CALLS["WRONG"], list(CALLS["arguments"](Path()))
PACKAGE, HOOKS = (str(Path(path).resolve()) for path in (neurocollapse.__path__[0], neurocollapse.hooks.__path__[0]))
MOST = 300


def complaint(error: BaseException) -> str:
    """What is wrong with an error as an answer to a mistake; nothing for most."""
    frames = [str(Path(frame.filename).resolve()) for frame in traceback.extract_tb(error.__traceback__)]
    if any("/torch/nn/modules/" in frame for frame in frames):
        return ""  # the caller's own model says what it cannot run on
    own = type(error).__module__.startswith("neurocollapse.")
    if not own and not isinstance(error, ValueError | TypeError | OSError):
        return f"a {type(error).__name__}"
    if not frames[-1].startswith((PACKAGE, HOOKS)):
        return f"a {type(error).__name__} of {frames[-1]}"
    words = str(error)
    return "" if len(words) <= MOST and words.isprintable() else f"{len(words)} characters, on one line or not"


@st.composite
def mistakes(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A function, and which of its arguments are given which wrong value."""
    name = draw(st.sampled_from(NAMES))
    options = list(CALLS["arguments"](Path())[name][1])
    chosen = draw(st.lists(st.sampled_from(options), min_size=1, max_size=2, unique=True))
    return name, {option: draw(st.integers(0, len(WRONG) - 1)) for option in chosen}


def check(folder: Path, mistake: tuple[str, dict[str, int]]) -> None:
    """Make the call; values that are no mistake after all may give a result."""
    name, wrong = mistake
    function, right = CALLS["arguments"](folder)[name]
    given: dict[str, Any] = {option: make() for option, make in right.items()}
    given |= {option: WRONG[index]() for option, index in wrong.items()}
    hypothesis.assume(all(given.get(option) is not CALLS["HUGE"] for option in CALLS["ENDLESS"]))
    said = ""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            function(**given)
        except Exception as error:
            said = f"{complaint(error)}: {error}" if complaint(error) else ""
    plt.close("all")
    assert not said, f"{name}({', '.join(wrong)}) raised {said[:600]}"


QUIET = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck), "derandomize": True, "database": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in: some calls write where they are told."""
    monkeypatch.chdir(tmp_path)
    assert os.listdir() == []
    return tmp_path


@hypothesis.given(mistake=mistakes())
@hypothesis.settings(max_examples=60, **QUIET)
def test_a_few_mistakes_are_refused_in_one_line(folder: Path, mistake: tuple[str, dict[str, int]]) -> None:
    check(folder, mistake)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@hypothesis.given(mistake=mistakes())
@hypothesis.settings(max_examples=2000, **QUIET)
def test_two_thousand_mistakes_are_refused_in_one_line(folder: Path, mistake: tuple[str, dict[str, int]]) -> None:
    check(folder, mistake)
