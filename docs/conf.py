"""How the site is built: `make docs`, with every warning an error and without a network."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import site_pages

import neurocollapse

project = "neurocollapse"
author = "The neurocollapse developers"
copyright = author
version = release = neurocollapse.__version__

extensions = [
    "myst_nb",
    "site_pages.extension",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["templates"]
exclude_patterns = ["_build", "inventories"]
highlight_language = "none"
nitpicky = True

# Docstrings: numpydoc; types come from the annotations; a name in single backquotes is a link where there is such a
# thing, and an argument's name where not.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"neurocollapse\.\w+\.\w+\..+"),  # type variables and protocols of private modules
    ("py:class", r"'\w+'|False"),  # the choices of a Literal
    ("py:class", r"(?!neurocollapse\.)\w+\..+"),  # of other projects only what the inventories list is linked
]
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = True
napoleon_use_admonition_for_references = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

# Links to other projects come from short inventories that lie here, so that building needs no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable", "inventories/torch.inv"),
    "xarray": ("https://docs.xarray.dev/en/stable", "inventories/xarray.inv"),
    "numpy": ("https://numpy.org/doc/stable", "inventories/numpy.inv"),
    "matplotlib": ("https://matplotlib.org/stable", "inventories/matplotlib.inv"),
}

# Notebooks show what is committed; tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
copybutton_prompt_text = ">>> "

html_theme = "furo"
html_title = "neurocollapse"
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"
html_static_path = ["static"]
html_extra_path = ["llms.txt"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    app.connect("config-inited", lambda *_: site_pages.write_all())
