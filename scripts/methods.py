"""Write docs/methods.md from conf/ and the docstrings of the components: `python scripts/methods.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed

from hydra.utils import get_object
from omegaconf import OmegaConf

from budgetrun.launch.help import description

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
CONF = ROOT / "conf"
METHODS = {
    "sampler": "Samplers",
    "select": "Rules of selection",
    "aug": "Augmentations",
    "noise": "Noise",
    "freeze": "Freezing",
    "loss": "Losses",
    "scores": "Scores",
}
OTHERS = {
    "dataset": "Data sets",
    "model": "Models",
    "optimizer": "Optimizers",
    "schedule": "Schedules",
    "logger": "Trackers",
}

HEAD = """\
# Methods

<!-- made by scripts/methods.py from conf/ and the docstrings: change those, and run it again -->

What every option does, what it costs, where it comes from, and where it differs from what was published. How a method
fits into the one loop is in [contract.md](contract.md), the papers are in [references.md](references.md).

Where a table says that a formula was checked, the code of its authors (or the code that it names) was run beside ours
on the same losses, logits or features, on that date, by a script for the occasion: others' code is not kept here.

In formulas, `n` is the number of training examples, `b` the batch size, `F` and `B` the forward and the backward pass
of one image. An image has K sources with shares that sum to 1: one, or several if the augmentation mixes images. Set a
parameter on the command line by the name in its table, as in `sampler=is sampler.pool=5`.
"""


# ---- from a docstring to its parts


@dataclass
class Description:
    """What a docstring says: its text, the parts labelled Source, Published or Cost, and the parameters' descriptions.

    A key of `parameters` may hold several names, as in "mean, std".
    """

    text: str
    labelled: dict[str, str]
    parameters: dict[str, str]


def described(kind: Any) -> Description:
    """The docstring of a component or a function. Its labels begin a line or a sentence. Indented lines continue the
    line above."""
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    one = rf"(?:{'|'.join(map(re.escape, names))})" if names else "(?!)"
    label = rf"(?:^|(?<=\n)|(?<=[.)] ))(Source|Published|Cost[\w ]*|{one}(?:, {one})*): "
    found = Description("", {}, {})
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        # \0 stands for the spaces of indented lines, so that no label is found there
        lines = re.sub(r"\n +.*", lambda line: f"\0{line[0].strip()}".replace(" ", "\0"), tabular(paragraph))
        text, *rest = re.split(label, lines)
        found.text += f"\n\n{text}" if text.strip() else ""
        for head, said in zip(rest[::2], rest[1::2], strict=True):
            where = found.parameters if head.split(", ")[0] in names else found.labelled
            where[head] = f"{where.get(head, '')} {said}".strip()
    for head, said in found.labelled.items():
        found.labelled[head] = flowing(said)
    found.parameters = {head: flowing(said) for head, said in found.parameters.items()}
    found.text = "\n\n".join(block for part in found.text.split("\n\n") if (block := flowing(part)))
    return found


def tabular(paragraph: str) -> str:
    """A paragraph with its columns as a code block: the lines from the first to the last that contain two spaces."""
    lines = paragraph.split("\n")
    spaced = [number for number, line in enumerate(lines) if re.search(r"\S  +\S", line)]
    if not spaced:
        return paragraph
    first, last = spaced[0], spaced[-1] + 1
    block = "\1".join(["```", *lines[first:last], "```"])  # keeps its lines apart when the text is joined
    return "\n".join([*lines[:first], block, *lines[last:]])


def flowing(text: str) -> str:
    """Text as one line of Markdown, with its code blocks."""
    parts = re.split(r"(```.*?```)", " ".join(text.replace("\0", " ").split("\n")))
    blocks = (part.replace("\1", "\n") if part.startswith("```") else escaped(part.strip()) for part in parts)
    return "\n".join(block for block in blocks if block)


def escaped(text: str) -> str:
    """Prose with code in backticks, with the characters escaped that mean something to Markdown."""
    prose, *rest = re.split(r"(`[^`]*`)", text)
    safe = re.sub(r"([*~])", r"\\\1", prose).replace("<", "&lt;")
    safe = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", safe)
    return safe + rest[0] + escaped("".join(rest[1:])) if rest else safe


# ---- the page


@dataclass
class Component:
    """A class and the options that use it.

    where: the path of its values on a command line. options: the values of each. comments: those in the files.
    """

    kind: Any
    where: str
    options: dict[str, dict[str, Any]]
    comments: dict[str, str]

    @property
    def heading(self) -> str:
        """As typed on a command line: sampler=is, or aug.crop for a step that several options share."""
        return self.where if "." in self.where else f"{self.where}={', '.join(self.options)}"


def components(group: str) -> list[Component]:
    """The classes of a group, in the order of their first options."""
    found: dict[tuple[str, str], Component] = {}
    for file in files(group):
        values, comments = composed(file)
        for where, part in parts(group, values).items():
            target = part["_target_"]
            component = found.setdefault((where, target), Component(get_object(target), where, {}, {}))
            component.options[file.stem] = part
            component.comments = comments | component.comments
    return list(found.values())


def parts(group: str, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The component of an option, or its steps, by where they are set."""
    return {group: values} if "_target_" in values else {f"{group}.{name}": step for name, step in values.items()}


def composed(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of an option and its files' comments on them; some may be from another option of the group."""
    own: Any = OmegaConf.to_container(OmegaConf.load(file))
    comments = dict(re.findall(r"^(\w+):.*? # (.*)$", file.read_text(), flags=re.M))
    values: Any = {}
    for other in own.pop("defaults", ["_self_"]):
        if other == "_self_":
            values = OmegaConf.merge(values, own)
        elif isinstance(other, str):
            theirs, said = composed(file.with_name(f"{other}.yaml"))
            values, comments = OmegaConf.merge(values, theirs), said | comments
    plain: Any = OmegaConf.to_container(values)
    return plain, comments


def files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def page() -> str:
    """The whole text of docs/methods.md."""
    sections = [chapter(group, title) for group, title in METHODS.items()]
    sections += [f"## {title}\n\n{short_table(group)}" for group, title in OTHERS.items()]
    sections.append(f"## Recipes\n\n{recipes()}")
    contents = "\n".join(f"- [{title}](#{anchor(title)})" for title in [*METHODS.values(), *OTHERS.values(), "Recipes"])
    return "\n".join([HEAD, contents, "", *(f"{section}\n" for section in sections)])


def chapter(group: str, title: str) -> str:
    """A group: a table of its options, then every class."""
    found = {component.heading: component for component in components(group)}
    rows = []
    for file in files(group):
        mine = {where: heading for heading, c in found.items() for where in [c.where] if file.stem in c.options}
        steps = [f"[{where}](#{anchor(mine[where])})" for where in parts(group, composed(file)[0]) if "." in where]
        option = code(file.stem)
        if group in mine:
            option = f"[{option}](#{anchor(mine[group])})"
        row = [option, escaped(description(file))]
        if group == "aug":
            row.append(", ".join(steps))
        if group == "sampler":
            row.append(cost(found[mine[group]].kind))
        if group in ("sampler", "scores", "select"):
            row.append(checked(file))
        rows.append(row)
    formula = "formula checked on equal states"
    more = {
        "aug": ["steps"],
        "sampler": ["cost of an update", formula],
        "scores": [formula],
        "select": [formula],
    }.get(group, [])
    head = table(["option", "what it does", *more], rows)
    return "\n\n".join([f"## {title}", head, *map(section, found.values())])


def section(component: Component) -> str:
    """A class: what its file and its docstring say, and its parameters."""
    says = described(component.kind)
    summary = (inspect.getdoc(inspect.getmodule(component.kind)) or "").split("\n\n")[0]
    blocks = [f"### {component.heading}", f"*{escaped(' '.join(summary.split()))}*", says.text]
    blocks += [f"**{label}:** {said}" for label, said in sorted(says.labelled.items())]
    # a step that several options share has the values of the first
    options = dict(list(component.options.items())[: 1 if "." in component.where else None])
    rows = []
    for name in (field.name for field in dataclasses.fields(component.kind)):
        said = [text for heads, text in says.parameters.items() if name in heads.split(", ")]
        comment = component.comments.get(name, "")
        if comment and comment.lower() not in " ".join(said).lower():
            said = [escaped(comment), *said]
        values = [code(shown(values[name])) for values in options.values()]
        rows.append([code(f"{component.where}.{name}"), *values, "<br>".join(said)])
    heads = [code(option) for option in options] if len(options) > 1 else ["default"]
    blocks += [table(["parameter", *heads, "meaning"], rows)] if rows else []
    return "\n\n".join([block for block in blocks if block] + within(component))


def within(component: Component) -> list[str]:
    """The classes that are values of a component but have no group of their own, each with the function that its
    docstring names first."""
    targets = [v["_target_"] for o in component.options.values() for v in o.values() if isinstance(v, dict)]
    blocks = []
    for kind in (get_object(target) for target in dict.fromkeys(targets)):
        if not (CONF / kind.__module__.split(".")[-2]).is_dir():
            does = getattr(inspect.getmodule(kind), (inspect.getdoc(kind) or "").split(" ")[0].strip("`,"), None)
            blocks += [f"**{kind.__name__}:** {inline(described(kind))}", inline(described(does)) if does else ""]
    return [block for block in blocks if block]


def inline(says: Description) -> str:
    """A description in one paragraph."""
    said = [f"{label}: {text}" for label, text in sorted(says.labelled.items())]
    said += [f"{code(names)}: {text}" for names, text in says.parameters.items()]
    return " ".join([says.text.replace("\n\n", " "), *said])


def short_table(group: str) -> str:
    """A group in one table, one line per class."""
    rows = []
    for component in components(group):
        what = "<br>".join(escaped(description(CONF / group / f"{option}.yaml")) for option in component.options)
        rows.append(["<br>".join(map(code, component.options)), what, inline(described(component.kind))])
    return table(["option", "what it is", "in full"], rows)


def recipes() -> str:
    """What each recipe sets."""
    rows = []
    for file in files("recipe"):
        values: Any = OmegaConf.to_container(OmegaConf.load(file))
        groups = [item for entry in values.pop("defaults", []) if isinstance(entry, dict) for item in entry.items()]
        sets = [f"{key.removeprefix('override /')}={shown(value)}" for key, value in [*groups, *values.items()]]
        rows.append([code(file.stem), escaped(description(file)), code(" ".join(sets))])
    return table(["option", "what it is", "sets"], rows)


def checked(file: Path) -> str:
    """Against whose code an option's formula was checked, when, and what agreed; "no" where it was not."""
    said = re.search(r"^# Checked against (.*?) on equal states, (\S+): (.*)\.$", file.read_text(), flags=re.M)
    return f"yes, {said[2]}, against {said[1]}: {escaped(said[3])}" if said else "no"


def cost(kind: Any) -> str:
    """What a docstring says about the cost of an update, wherever it says so."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    found = re.findall(r"Cost(?: of an update)?([\w ]*): (.*?)\.(?= |$)", text)
    return "; or ".join(escaped(f"{case.strip()}: {said}".removeprefix(": ")) for case, said in found)


def shown(value: Any) -> str:
    """A value as it is typed on a command line."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case dict():  # a component within a component
            named = (f"{key}={shown(v)}" for key, v in value.items() if key != "_target_")
            return " ".join([value["_target_"].rpartition(".")[2], *named])
    return str(value)


def code(text: str) -> str:
    return f"`{text}`"


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
