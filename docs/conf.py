"""Settings of the documentation site: `make docs` builds it with Sphinx from the Markdown pages in this folder."""

import re
import sys
from pathlib import Path

import tomllib
from sphinx.util import inspect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project, author, release = metadata["name"], metadata["authors"][0]["name"], metadata["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "results"]
html_theme, html_title = "furo", f"ExpandR {release}"
html_theme_options = {"source_repository": metadata["urls"]["Repository"], "source_branch": "main"}

# Anchors as on the forge, so that a link to a heading works in both places.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings are written as Markdown: one backtick means code.
default_role = "code"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Columns", "notes_style")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# A type from elsewhere has no page here, and a type that is only imported for annotations has no path.
nitpick_ignore_regex = [("py:.*", r"(?!pyterrier_expandr\.).*")]

# `make docs-links` asks the network; an address that only exists once the project is published is not asked for.
linkcheck_ignore = [re.escape(metadata["urls"]["Repository"]) + ".*", r"http://localhost.*"]


def to_the_forge(_app: object, _page: str, source: list[str]) -> None:
    """Send links that leave this folder (notebooks, tests) to the repository, where the forge shows them."""
    source[0] = re.sub(r"\]\(\.\./(?!\.)([^)]+)\)", rf"]({metadata['urls']['Repository']}/blob/main/\1)", source[0])


def own_signature(_app: object, what: str, _name: str, thing: type, _options: object, signature: str, _: str) -> object:
    """Show what a transformer is made with: PyTerrier's `__new__` hides it behind `*args, **kwargs`."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    own = inspect.signature(thing.__init__, bound_method=True).replace(return_annotation=inspect.Signature.empty)
    return inspect.stringify_signature(own, unqualified_typehints=True, short_literals=True), None


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", own_signature)
    app.connect("source-read", to_the_forge)
