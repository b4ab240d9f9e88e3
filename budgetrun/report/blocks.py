"""What a report is made of: sections, their parts, and the blocks of these. page.html shows each kind of block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from budgetrun.folder.selected import Example
from budgetrun.report.chart import Strips
from budgetrun.report.figures import Gallery
from budgetrun.tables.table import Sheet


@dataclass
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    words: str


@dataclass
class Sentences:
    """A list of sentences."""

    kind: ClassVar = "sentences"
    said: list[str]


@dataclass
class Note:
    """Sentences that deserve attention."""

    kind: ClassVar = "note"
    sentences: list[str]


@dataclass
class Terms:
    """Words and what they mean, to unfold."""

    kind: ClassVar = "terms"
    title: str
    meanings: dict[str, str]


@dataclass
class Code:
    kind: ClassVar = "code"
    words: str


@dataclass
class Tabular:
    """A table, with its caption below. strips: a further column of pictures, after those of names."""

    kind: ClassVar = "table"
    sheet: Sheet
    strips: Strips | None = None


@dataclass
class Charts:
    """Galleries that share a caption."""

    kind: ClassVar = "charts"
    galleries: list[Gallery]
    caption: str


@dataclass
class Choice:
    """Of the views that charts have, the one that the page shows: names with their words, and the first one."""

    kind: ClassVar = "choice"
    views: dict[str, str]
    first: str


@dataclass
class Row:
    """The examples of a run. title: which run, in words."""

    title: str
    most: list[Example]
    least: list[Example]


@dataclass
class Examples:
    """Images of the most and the least selected examples of runs."""

    kind: ClassVar = "examples"
    rows: list[Row]
    caption: str


Block = Text | Sentences | Note | Terms | Code | Tabular | Charts | Choice | Examples


@dataclass
class Part:
    """What a section says about one panel, or about all of them. title: "" if there is nothing to tell apart."""

    title: str
    blocks: list[Block]


@dataclass
class Section:
    """name: the fragment of its address."""

    name: str
    title: str
    parts: list[Part] = field(default_factory=list)
