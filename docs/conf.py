"""How Sphinx builds the manual; docs/build.py calls it."""

from skunkqueue import __version__

project = "SkunkQueue"
author = "the authors of SkunkQueue"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"SkunkQueue {__version__}"
html_copy_source = False
html_show_copyright = False
templates_path: list[str] = []
myst_heading_anchors = 3  # so that links to headings are the same as in the repository
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures with all their types do not fit a line; the docstrings give shapes and units
autodoc_default_options = {"members": True, "show-inheritance": True}
