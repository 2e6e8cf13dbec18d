"""Sphinx configuration; the build reads nothing from the network."""

import os
import sys
from importlib import metadata
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parents[1]))

project = "numpyro_vi_ext"
author = "The numpyro_vi_ext contributors"
copyright = author
release = version = metadata.version("numpyro-vi-ext")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"numpyro_vi_ext {version}"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Types stand in the numpydoc sections, with shapes and units; once is enough.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False


def check_api_page(app):
    """Warn about public names that docs/api.md does not show (an error under -W)."""
    from sphinx.util import logging

    import numpyro_vi_ext as vi

    shown = set((Path(app.srcdir) / "api.md").read_text().split())
    for name in sorted(set(vi.__all__) - shown):
        logging.getLogger(__name__).warning("docs/api.md does not show numpyro_vi_ext.%s", name)


def setup(app):
    app.connect("builder-inited", check_api_page)
