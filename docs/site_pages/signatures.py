"""Signatures of several lines: Sphinx writes their lines as definitions without a term, which HTML does not know."""

from typing import Any

from sphinx import addnodes


def setup(app: Any) -> None:
    """Write the lines as plain boxes."""
    app.add_node(addnodes.desc_parameterlist, override=True, html=(_begin_list, _end_list))
    app.add_node(addnodes.desc_parameter, override=True, html=(_begin_parameter, _end_parameter))


def _begin_list(translator: Any, node: Any) -> None:
    _rewritten(translator, "visit_desc_parameterlist", node, "<dl>", '<div class="sig-lines">')


def _end_list(translator: Any, node: Any) -> None:
    _rewritten(translator, "depart_desc_parameterlist", node, "</dl>", "</div>")


def _begin_parameter(translator: Any, node: Any) -> None:
    _rewritten(translator, "visit_desc_parameter", node, "<dd>", '<div class="sig-line">')


def _end_parameter(translator: Any, node: Any) -> None:
    _rewritten(translator, "depart_desc_parameter", node, "</dd>", "</div>")


def _rewritten(translator: Any, method: str, node: Any, tag: str, other: str) -> None:
    """Let Sphinx write what it writes, with another tag."""
    start = len(translator.body)
    getattr(type(translator), method)(translator, node)
    translator.body[start:] = [part.replace(tag, other) for part in translator.body[start:]]
