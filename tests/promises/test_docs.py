"""The documentation says what the code does: the page of methods, its formulas, citations and links."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import CHECKOUT, here, refused

sys.path.insert(0, str(CHECKOUT / "scripts"))

import methods

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")), *(CHECKOUT / "docs").glob("extending/*.md")]
SAMPLERS = {c.heading: c.kind for c in methods.components("sampler")}
METHODS = {c.heading: c for group in methods.METHODS for c in methods.components(group)}


# ---- the page of methods


def test_the_page_of_methods_is_what_the_docstrings_and_the_configuration_say() -> None:
    """It is written when the site is built; what a new component adds to it may be missing until then."""
    here, made = (page.splitlines() for page in (methods.PAGE.read_text(), methods.page()))
    assert not [line for line in here if line not in made], "run python scripts/methods.py"
    assert len(here) <= len(made)


def test_every_option_has_its_line() -> None:
    lines = methods.page().splitlines()
    for group in [*methods.METHODS, *methods.OTHERS, "recipe"]:
        for file in methods.files(group):
            assert any(line.startswith("| ") and f"`{file.stem}`" in line.split(" | ")[0] for line in lines), file


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    for page in PAGES:
        for block in re.findall(r"(?:^\|.*\n)+", page.read_text(), flags=re.M):
            cells = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
            assert len(set(cells)) == 1, block


@pytest.mark.parametrize("heading", SAMPLERS)
def test_a_samplers_docstring_says_its_source_and_what_an_update_costs(heading: str) -> None:
    docstring = inspect.getdoc(SAMPLERS[heading]) or ""
    assert re.search(r"(^|[.)] )Source: ", docstring, flags=re.M), "Source: where the method is from, at a line's start"
    assert re.search(r"(^|[.)] ) *Cost of an? \w+( \w+)*: ", docstring, flags=re.M), "Cost of an update: in b, n, F, B"
    assert methods.cost(SAMPLERS[heading])


@pytest.mark.parametrize("heading", METHODS)
def test_every_parameter_is_described(heading: str) -> None:
    component = METHODS[heading]
    docstring = inspect.getdoc(component.kind) or ""
    for field in dataclasses.fields(component.kind):
        said = component.comments.get(field.name) or re.search(rf"\b{field.name}\b", docstring)
        assert said, f"{component.where}.{field.name} has neither a comment in its YAML nor a word in its docstring"


# ---- how it is read from a docstring


@dataclass
class Example:
    """Keep an image with probability `p_i^beta`, one line.

    What follows goes on
    for two lines. Source: Somebody et al. 2020, their code: yes. Cost of an update: `pool b F + b (F + B)`.
    Published: the same, without `(F + B)`.

    pool, keep: two of them. beta: on
        three: lines, of which an indented one. Source: is no label there,
        nor pool: either.
    table: these
    first   1 - p
    second  2
    end.
    """

    pool: int
    keep: float
    beta: float
    table: str


def test_a_docstring_is_split_where_a_line_or_a_sentence_begins_with_a_label() -> None:
    found = methods.described(Example)
    assert found.text == "Keep an image with probability `p_i^beta`, one line.\n\nWhat follows goes on for two lines."
    assert found.labelled == {
        "Source": "Somebody et al. 2020, their code: yes.",
        "Cost of an update": "`pool b F + b (F + B)`.",
        "Published": "the same, without `(F + B)`.",
    }
    assert found.parameters == {
        "pool, keep": "two of them.",
        "beta": "on three: lines, of which an indented one. Source: is no label there, nor pool: either.",
        "table": "these\n```\nfirst   1 - p\nsecond  2\n```\nend.",
    }
    assert methods.cost(Example) == "`pool b F + b (F + B)`"


def test_prose_is_escaped_and_code_is_not() -> None:
    assert methods.escaped("files like *.csv in <root>, _x_, `a * b_c`") == (
        r"files like \*.csv in &lt;root>, \_x\_, `a * b_c`"
    )


# ---- a user's own sampler


def test_the_sampler_of_the_documentation_is_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (CHECKOUT / "docs" / "extending.md").read_text()
    blocks = dict(re.findall(r"^```(?:python|yaml)\n# (my/\S+)\n(.*?)^```$", page, flags=re.M | re.S))
    assert [Path(name).suffix for name in blocks] == [".py", ".yaml"]
    for name, text in blocks.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = re.findall(r"^python -m budgetrun (--config-dir my.*)$", page, flags=re.M)
    done = here(f"{line} epochs=1", tmp_path)
    assert done.code == 0, done.err
    assert done.result["examples_forward"] == 4 * done.result["examples_backward"]  # a pool of 3 batches, and its best
    kind = pkgutil.resolve_name("my.hardest.Hardest")
    assert methods.described(kind).labelled.keys() == {"Source", "Cost of an update"}
    assert methods.cost(kind) == "`pool b F + b (F + B)`"


def test_the_model_of_the_documentation_is_two_files_and_asks_for_the_image_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (CHECKOUT / "docs" / "extending.md").read_text()
    for name, text in re.findall(r"^```(?:python|yaml)\n# (mine/\S+)\n(.*?)^```$", page, flags=re.M | re.S):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = re.findall(r"^python -m budgetrun (--config-dir mine.*)$", page, flags=re.M)
    refused(here(f"{line} model.patch=3", tmp_path), "cannot be built for images of 1x8x8", "indivisible by patch size")
    done = here(f"{line} epochs=0.2 evaluations=1 model.depth=1", tmp_path)
    assert done.code == 0, done.err
    # 64 -> 64 patches, a class token, 17 positions, one block, its norm, and the last layer
    block = 4 * 64 * 65 + (64 * 256 + 256) + (256 * 64 + 64) + 2 * 2 * 64
    assert done.result["n_parameters"] == 64 * 5 + 64 + 17 * 64 + block + 2 * 64 + 65 * 10


# ---- citations and links


def cited(text: str) -> set[tuple[str, str]]:
    """First author and year of every citation."""
    name = r"([A-Z][a-z]+(?:-[A-Z][a-z]+)?)(?: et al\.| & [A-Z][a-z]+)?"
    return set(re.findall(rf"{name} ((?:19|20)\d\d)\b", text))


def test_every_paper_that_is_cited_is_in_the_references() -> None:
    listed = re.findall(r"^- ([^:]+): .*", (CHECKOUT / "docs" / "references.md").read_text(), flags=re.M)
    assert listed == sorted(listed)
    assert not cited(methods.page()) - cited(" ".join(listed)), "add these to docs/references.md"


def fragments(page: Path) -> set[str]:
    return {methods.anchor(title) for title in re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    assert links or page.name in ("references.md", "layout.md")
    for link in links:
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not fragment or fragment in fragments(target), link


def test_headings_of_the_page_of_methods_are_different() -> None:
    titles = re.findall(r"^#+ (.*)$", methods.PAGE.read_text(), flags=re.M)
    assert len({methods.anchor(title) for title in titles}) == len(titles)
