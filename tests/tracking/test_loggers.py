"""The numbers of a tracker reach real experiment trackers, each installed in an environment of its own."""

import json
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("log_for_real.py")
PACKAGES = ("tensorboard", "wandb", "trackio")
SINGLE = 1e-6
"""TensorBoard keeps scalars in single precision."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each package holds of the same run; its dependencies are newer than ours and must not mix with them."""
    folder = tmp_path_factory.mktemp("loggers")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")  # as a site, not as a path: an installation in place is found by a .pth file
    (site / "base.pth").write_text(f"import site; site.addsitedir({ours!r})")
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    (folder / "logs").mkdir()
    command = [python, "-W", "ignore", DRIVER, folder / "logs"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_every_number_at_its_step(held: dict[str, Any], package: str) -> None:
    expected, found = held[package]["expected"], held[package]["found"]
    assert [step for step, _ in found] == [step for step, _ in expected] == [1, 5, 20]
    for (_, value), (_, wanted) in zip(found, expected, strict=True):
        assert value == pytest.approx(wanted, rel=SINGLE)
    assert held[package]["steps_of_loss"] == [1, 5, 20]
