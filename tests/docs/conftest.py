"""The modules that write the site's pages lie beside the pages; slow tests share one build of the site."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the gallery's pictures, for which two networks are trained, except in slow tests."""
    from site_pages import gallery

    if "slow" not in request.keywords:
        monkeypatch.setattr(gallery, "pictures", dict)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error."""
    for library in ("sphinx", "furo", "myst_nb", "sphinx_design", "sphinx_copybutton"):
        pytest.importorskip(library, reason="the site is built with it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder
