"""The site's own Sphinx extension: formulas without a script, types as links, indices as indices."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.transforms.post_transforms import SphinxPostTransform

from neurocollapse.support.indices import pieces
from site_pages import docstrings, mathml, signatures
from site_pages.search import check_search

_RENAMED = {
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "matplotlib.axes._axes.Axes": "matplotlib.axes.Axes",
    "torch._C.Generator": "torch.Generator",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "torch.utils.data.dataloader.DataLoader": "torch.utils.data.DataLoader",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    "xarray.core.dataarray.DataArray": "xarray.DataArray",
    "xarray.core.dataset.Dataset": "xarray.Dataset",
    "xarray.core.datatree.DataTree": "xarray.DataTree",
}
"""Names that annotations have for classes which are documented under another."""

_SHORT = {"nc.plot.": "neurocollapse.plots.", "nc.": "neurocollapse."}
"""How the library is called in code, longer names first."""

_VERBATIM = (
    nodes.literal,
    nodes.literal_block,
    nodes.doctest_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.title,
    addnodes.desc_signature,
    addnodes.literal_strong,
    addnodes.toctree,
)
_NO_LANGUAGE = (None, "none", "default")
_INDEX_NODES = {"": nodes.Text, "_": nodes.subscript, "^": nodes.superscript}

AFTER_NAPOLEON, BEFORE_INTERSPHINX = 600, 400


def setup(app: Any) -> dict[str, Any]:
    """Connect everything."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":  # of a class: numpydoc's section is called Attributes
            field.label = "Attributes"
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _tidy, priority=AFTER_NAPOLEON)
    app.connect("missing-reference", _resolve, priority=BEFORE_INTERSPHINX)
    app.connect("build-finished", check_search)
    app.add_post_transform(Indices)
    signatures.setup(app)
    app.add_html_math_renderer("mathml", (mathml.inline, None), (mathml.display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Indices(SphinxPostTransform):
    """Set the indices in every text and in every block of formulas."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Replace texts by texts and indices."""
        for text in list(self.document.findall(nodes.Text)):
            if not _is_verbatim(text) and len(found := _typeset(text)) > 1:
                text.parent.replace(text, found)
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") in _NO_LANGUAGE and len(found := _typeset(block.astext())) > 1:
                block.children = []
                block += found
                block.rawsource = ""  # what differs from its source is not highlighted
                block["classes"].append("formulas")


def _typeset(text: str) -> list[nodes.Node]:
    """A text as nodes."""
    return [nodes.Text(part) if not mark else _INDEX_NODES[mark]("", part) for mark, part in pieces(str(text))]


def _is_verbatim(text: nodes.Text) -> bool:
    """Whether a text is code, or stands where indices cannot."""
    node = text.parent
    while node is not None:
        if isinstance(node, _VERBATIM):
            return True
        node = node.parent
    return False


def _tidy(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = docstrings.tidied(what, lines)


def _resolve(app: Any, env: Any, node: Any, child: Any) -> Any:
    """Resolve nc.… as everybody writes it; give other references their documented name, and let others resolve them."""
    target = node.get("reftarget", "")
    for short, full in _SHORT.items():
        if target.startswith(short):
            name = full + target.removeprefix(short)
            domain = env.domains.python_domain
            return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], name, node, child)
    node["reftarget"] = re.sub(r"^torch\.nn\.modules\.\w+\.", "torch.nn.", _RENAMED.get(target, target))
    return None
