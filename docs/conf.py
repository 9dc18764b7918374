"""How Sphinx makes the site, `make docs`. Its source is the repository, so that a link leads to the same file here and there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generated import PAGES
from sphinx.application import Sphinx

project = "AFT-Ray"
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/**"]
exclude_patterns = [".*", "runs", "site", "build"]
extensions = ["myst_parser"]
myst_heading_anchors = 4
highlight_language = "none"
html_theme = "furo"
html_title = "AFT-Ray"
html_show_copyright = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_what_the_code_says)


def add_what_the_code_says(_: Sphinx, page: str, source: list[str]) -> None:
    """The pages of docs/reference hold a few words; what they tell of is made from the code at every build."""
    if page in PAGES:
        source[0] += PAGES[page]()
