"""Hooks for the documentation site: pages that the build generates, and links out of docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

METHODS = ("sampler", "select", "coreset", "aug", "noise", "freeze", "loss", "scores")
GROUPS = (*METHODS, "dataset", "model", "optimizer", "schedule", "logger")
# pages at the root of the repository, where GitHub looks for them
AT_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_pre_build(**_: Any) -> None:
    """Regenerate the page of methods from conf/ and the docstrings."""
    sys.path.append(str(ROOT / "scripts"))
    import methods

    if methods.PAGE.read_text() != (page := methods.page()):
        methods.PAGE.write_text(page)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages of the repository's root, and one page per component group."""
    for name, source in AT_ROOT.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        files.append(File.generated(config, name, content=text))
    for group in GROUPS:
        modules = sorted(path.stem for path in (ROOT / "budgetrun" / group).glob("[!_]*.py"))
        blocks = [f"## {module}\n\n::: budgetrun.{group}.{module}\n" for module in modules]
        files.append(File.generated(config, f"api/{group}.md", content="\n".join([f"# {group}\n", *blocks])))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name files of the repository that are not pages instead of linking to them."""
    if page.file.src_uri in AT_ROOT:
        return re.sub(r"\[([^\]]+)\]\((?![\w-]+\.md|https?:|#)[^)]*\)", r"\1", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
