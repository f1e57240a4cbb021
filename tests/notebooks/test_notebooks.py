"""The notebooks run from top to bottom, and what is committed is what they show."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

import neurocollapse as nc
from tests.notebooks.rerun import FOLDER, make_kernel, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE_PATH = re.compile(r"/(home|root|tmp|work|Users)\b|[A-Z]:\\Users")
MAX_BYTES = 400_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def kernel_of_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel named "python3" that is the running interpreter."""
    make_kernel(tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))


def test_the_expected_notebooks_are_there() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "collapse_in_a_language_model",
        "compressed_training",
        "deep_lora",
        "hook_a_model",
        "hybrid_against_nonlinear",
        "initialisation_and_depth",
        "law_of_parsimony",
        "low_rank_layers",
        "separate_and_compress",
        "verify_the_theorem",
        "what_is_proved",
        "which_layer_to_fine_tune",
        "watch_a_network_collapse",
        "your_own_checkpoint",
    }


@pytest.mark.timeout(150)
@every_notebook
@pytest.mark.usefixtures("kernel_of_this_interpreter")
def test_runs_in_a_fresh_kernel_and_draws_the_same_figures(path: Path, tmp_path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    run(fresh, tmp_path, timeout=120)  # raises at an error
    assert [_num_figures(cell) for cell in _code(fresh)] == [_num_figures(cell) for cell in _code(committed)]
    assert sum(_num_figures(cell) for cell in _code(fresh)) >= 3
    # Values differ between machines; how a table is made does not.
    assert [_heads(cell) for cell in _code(fresh)] == [_heads(cell) for cell in _code(committed)]


@every_notebook
def test_what_is_shown_is_of_this_version(path: Path) -> None:
    shown = re.findall(r"neurocollapse_version\S*\s+(\d[\w.]*)", "\n".join(_texts(nbformat.read(path, as_version=4))))
    assert set(shown) <= {nc.__version__}


@every_notebook
def test_every_code_cell_was_run_in_order_without_error(path: Path) -> None:
    cells = _code(nbformat.read(path, as_version=4))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]


@every_notebook
def test_committed_file_is_small_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not MACHINE_PATH.findall("\n".join(_texts(notebook)))


def _code(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The code cells."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _num_figures(cell: Mapping[str, Any]) -> int:
    """How many figures a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def _heads(cell: Mapping[str, Any]) -> list[str]:
    """The headings of the tables that a cell shows."""
    pages = (output.get("data", {}).get("text/html", "") for output in cell["outputs"])
    return [heading for page in pages for heading in re.findall(r"<th[ >].*?</th>", page)]


def _texts(value: Any) -> list[str]:
    """Every string of a notebook except pictures, whose base64 may spell anything."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, entry in value.items() if key != "image/png" for text in _texts(entry)]
    return [text for entry in value for text in _texts(entry)] if isinstance(value, list) else []
