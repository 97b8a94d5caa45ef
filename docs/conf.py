"""How Sphinx builds these pages: `make docs`."""

from unfreeze.version import __version__

project = "unfreeze"
author = "the unfreeze authors"
copyright = "the unfreeze authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "cyclopts.sphinx_ext",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"unfreeze {version}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["unfreeze.css"]

myst_heading_anchors = 3
smartquotes = False  # --flags keep both of their hyphens
nitpicky = False  # types of other libraries have no page here, as no inventory is fetched while the pages are built

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
