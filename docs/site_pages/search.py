"""What a new user types into the site's search, and where it must lead: checked at the end of each build."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WANTED = {
    "callback": "guides/trainers",
    "lightning": "guides/trainers",
    "tensorboard": "guides/tracking",
    "wandb": "guides/tracking",
    "pandas": "guides/export",
    "dataframe": "guides/export",
    "latex": "guides/export",
    "colab": "faq",
    "cka": "concepts/similarity",
    "cdnv": "generated/quantities",
    "nc1": "generated/quantities",
    "nc2": "generated/quantities",
    "nc3": "generated/quantities",
    "ood": "guides/out_of_distribution",
    "transfer": "guides/transfer",
    "imbalance": "guides/imbalance",
    "padding": "guides/tokens",
    "tokens": "guides/tokens",
    "checkpoint": "guides/checkpoints",
    "uncertainty": "concepts/uncertainty",
}
"""Word → a page that must be among the results."""

_BEFORE, _AFTER = "Search.setIndex(", ")"


def read_index(path: Path) -> dict[str, Any]:
    """The index that Sphinx writes for the script that searches in the browser."""
    return json.loads(path.read_text().removeprefix(_BEFORE).removesuffix(_AFTER))


def pages_of(index: Mapping[str, Any], stem: str) -> set[str]:
    """The pages that have a word of this stem in their text or titles."""
    found: set[str] = set()
    for part in ("terms", "titleterms"):
        pages = index[part].get(stem, [])
        found |= {index["docnames"][page] for page in (pages if isinstance(pages, list) else [pages])}
    return found


def not_found(index: Mapping[str, Any], stem: Callable[[str], str]) -> dict[str, str]:
    """The words that do not lead where they must, with that page."""
    return {word: page for word, page in WANTED.items() if page not in pages_of(index, stem(word))}


def check_search(app: Any, error: Exception | None) -> None:
    """Warn, which fails a strict build, of words that the finished site's search does not find."""
    from sphinx.search.en import SearchEnglish
    from sphinx.util import logging

    path = Path(app.outdir) / "searchindex.js"
    if error is None and path.is_file():
        for word, page in not_found(read_index(path), SearchEnglish({}).stem).items():
            logging.getLogger(__name__).warning("the search for %r does not find %s", word, page)
