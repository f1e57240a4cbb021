"""Pages of the site that each build writes: tutorials, experiments, quantities, gallery, command line, API."""

from pathlib import Path

from site_pages import commands, experiments, gallery, quantities, reference, tutorials

DOCS = Path(__file__).parents[1]
GENERATED = DOCS / "generated"


def write_all(target: Path = GENERATED, notebooks: Path = DOCS.parent / "notebooks") -> None:
    """Write all generated pages into a folder and remove what an earlier build left there."""
    pages = {
        **tutorials.pages(sorted(notebooks.glob("*.ipynb"))),
        **experiments.pages(),
        **quantities.pages(),
        **gallery.pages(),
        **commands.pages(),
        **reference.pages(),
    }
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.relative_to(target).as_posix() not in pages:
            path.unlink()
    for name, content in pages.items():
        _write_if_changed(target / name, content if isinstance(content, bytes) else content.encode())


def _write_if_changed(path: Path, content: bytes) -> None:
    """Leave an unchanged file alone, so that the next build need not read it again."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
