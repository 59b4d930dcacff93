"""What MkDocs does for the site of mkdocs.yml beside its plugins.

Some pages lie outside of docs/, where people look for them in the repository; links between files
of the repository become links between pages; and equations become MathML, which browsers set
themselves, so that the site needs neither a script nor the network for them.
"""

from __future__ import annotations

import html
import importlib.metadata
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# File of the repository: page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tests/cudasim/README.md": "cudasim.md",
}
# The font of equations, which a browser may not have.
FONT = "STIXTwoMath-Regular.ttf"
FILES = {page: file for file, page in PAGES.items()}

FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
EQUATION = re.compile(r"<(span|div) class=\"arithmatex\">\\([(\[])(.*?)\\[)\]]</\1>", re.DOTALL)
ROLE = re.compile(r":(?:func|class|attr|meth|mod):(?=<code>)")

log = get_plugin_logger("hooks")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside of docs/, and the font."""
    for file, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    font = importlib.metadata.distribution("ziamath").locate_file(f"ziamath/fonts/{FONT}")
    files.append(File.generated(config, f"site/{FONT}", abs_src_path=str(font)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Makes links to files of the repository links to pages; a file that is none stays text."""
    here = page.file.src_uri
    page.meta["hide"] = ["navigation"] if page.parent is None else []  # there is nothing beside it
    if "side-by-side" in markdown:
        page.meta["hide"].append("toc")
    folder = posixpath.dirname(FILES.get(here, f"docs/{here}"))

    def to_page(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups(default="")
        file = posixpath.normpath(posixpath.join(folder, target))
        if file in PAGES or file.startswith("docs/"):
            uri = PAGES.get(file, file.removeprefix("docs/"))
            target = posixpath.relpath(uri, posixpath.dirname(here) or ".")
            return f"{image}[{text}]({target}{anchor})"
        if (ROOT / file).exists():
            return text
        log.warning("%s links to %s, which is not there", here, file)
        return match.group()

    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(to_page, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Sets the equations, and reads docstrings as Python's do: roles (``:func:`name` ``) and ::."""

    def to_mathml(match: re.Match[str]) -> str:
        _, bracket, tex = match.groups()
        return str(convert(html.unescape(tex), display="block" if bracket == "[" else "inline"))

    content = ROLE.sub("", EQUATION.sub(to_mathml, content))
    return content.replace("<p>::</p>\n", "").replace("::</p>", ":</p>")
