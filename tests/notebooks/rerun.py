"""Run notebooks and store what they show: `python -m tests.notebooks.rerun [NAME …]`, all of them by default."""

import base64
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[2] / "notebooks"
COLOURS = 256
"""Enough for every figure; with a palette of so many a file is a third of its size."""


def make_kernel(folder: Path) -> None:
    """Write a kernel named "python3" that is the running interpreter, ahead of any that the user has registered."""
    spec = folder / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    # Two kernels with a thread per core each would stall on a busy machine.
    environment = {"OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(FOLDER.parent)}
    kernel = {"argv": command, "display_name": "Python 3", "language": "python", "env": environment}
    (spec / "kernel.json").write_text(json.dumps(kernel))


def run(notebook: Any, folder: Path, **options: Any) -> Any:
    """Run a notebook in a folder, in place; raises at an error."""
    places = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, kernel_name="python3", record_timing=False, resources=places, **options).execute()


def stored(path: Path) -> str:
    """The notebook with fresh outputs, as its file holds it."""
    notebook = nbformat.read(path, as_version=4)
    kept = dict(notebook["metadata"])
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder), timeout=600)
    notebook["metadata"] = nbformat.from_dict(kept)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(cell["outputs"])
    return nbformat.writes(notebook) + "\n"


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with one entry for what was printed in several, and smaller figures."""
    found: list[Any] = []
    for output in outputs:
        if found and output.get("name") is not None and output.get("name") == found[-1].get("name"):
            found[-1]["text"] += output["text"]
        else:
            found.append(output)
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = _with_palette(output["data"]["image/png"])
    return found


def _with_palette(png: str) -> str:
    """A figure in base64, its colours in a palette."""
    figure = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    stream = io.BytesIO()
    figure.quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as jupyter:
        make_kernel(Path(jupyter))
        os.environ["JUPYTER_PATH"] = str(Path(jupyter) / "jupyter")
        for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
            file = FOLDER / f"{name}.ipynb"
            file.write_text(stored(file))
            print(f"{name}: {file.stat().st_size:,} bytes", flush=True)
