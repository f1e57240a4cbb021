"""The modules that write the site's pages lie beside the pages."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the gallery's pictures, for which two networks are trained, except in slow tests."""
    from site_pages import gallery

    if "slow" not in request.keywords:
        monkeypatch.setattr(gallery, "pictures", dict)
