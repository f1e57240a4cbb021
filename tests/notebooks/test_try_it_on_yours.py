"""Each notebook ends with two lines for the reader's own model, and they run."""

import ast
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from safetensors.torch import save_file

import neurocollapse as nc
from neurocollapse.lowrank import Factorization
from neurocollapse.models.linear import linear_weights
from tests.docs.prepared import Perceptron, batches, namespace

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ENDING = re.compile(r"\A## Try it on yours\n\n```python\n(.*?)\n```\n\n.+\Z", re.DOTALL)


def ending(path: Path) -> str:
    """The code of the last cell."""
    cell = nbformat.read(path, as_version=4)["cells"][-1]
    found = ENDING.match(cell["source"])
    assert found
    assert cell["cell_type"] == "markdown"
    return found[1]


def prepared(code: str) -> dict[str, Any]:
    """What the lines take for granted."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    names = namespace(used)
    if "task" in used:
        names |= {"task": Factorization(torch.eye(8, 2) @ torch.eye(2, 8)), "rank": 2}
        names["weights"] = linear_weights([8, 8, 8], "orth", 0.1, seed=0)
    if "tracker" in used:
        names["step"] = 1
        names["tracker"] = (
            nc.dynamics.WeightTracker(Perceptron()) if "model" in used else nc.track(Perceptron(), batches())
        )
        names["tracker"].record(0, *([names["model"]] if "model" in used else []))
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # small data on purpose
def test_a_notebook_ends_with_two_lines_that_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(Perceptron().state_dict(), tmp_path / "weights.safetensors")
    code = ending(path)
    assert len(code.splitlines()) <= 2
    exec(code, prepared(code))
    plt.close("all")
