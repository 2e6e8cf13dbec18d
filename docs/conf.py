"""Sphinx configuration; the build reads nothing from the network."""

import hashlib
import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "numpyro_vi_ext"

sys.path.insert(0, str(HERE.parent))

project = "numpyro_vi_ext"
author = "The numpyro_vi_ext contributors"
copyright = author
release = version = metadata.version("numpyro-vi-ext")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = f"numpyro_vi_ext {version}"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# docs/quickstart.md is a notebook. Its kernel is the interpreter that builds the pages, and imports
# the package beside them. It is run again if its code or the package has changed.
sources = b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build/.jupyter_cache" / hashlib.md5(sources).hexdigest())
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell may take
nb_output_stderr = "remove"  # progress bars; warnings are errors in the notebook
nb_merge_streams = True
os.environ.pop("MPLBACKEND", None)  # any but the kernel's own would show no figures
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
paths = [str(HERE.parent), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

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
