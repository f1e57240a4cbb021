"""What the command line imports before a command runs, in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["analyze", "layers", "verify", "experiment", "report", "track", "check"]
PROGRAM = """
import atexit, json, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules)), file=sys.stderr))
from neurocollapse.cli import main
main({arguments})
"""


def loaded_by(arguments: list[str]) -> set[str]:
    """The packages that are imported at the end of a command line which succeeds."""
    program = PROGRAM.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout
    return {module.partition(".")[0] for module in json.loads(run.stderr.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_needs_no_library(arguments: list[str]) -> None:
    assert not loaded_by(arguments) & {"torch", "numpy", "xarray", "pandas", "scipy", "sklearn", "matplotlib", "jinja2"}


def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    run = subprocess.run(
        [sys.executable, "-m", "neurocollapse", "layers", "--model", "torchvision:resnet18"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 130
    assert run.stderr == "neurocollapse: interrupted; what --resume FILE has kept is safe\n"
