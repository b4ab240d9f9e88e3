"""The data sets for classification that torchvision reads."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetrun.contracts import Data, UserError, path
from budgetrun.dataset._fetch import fetch
from budgetrun.dataset._pictures import OfPictures, Pictures, files_below
from budgetrun.errors import one_line


@dataclass
class Torchvision(OfPictures):
    """A data set of torchvision.datasets: KMNIST, EMNIST, Flowers102, OxfordIIITPet, EuroSAT, GTSRB, DTD, Food101 ...

    It is downloaded if torchvision can. The classes are those that occur, in the order of their numbers.
    name: the class in torchvision.datasets. options: more of its arguments, such as `{split: letters}` for EMNIST.
    root: below `data_dir`, or an absolute path; null for torchvision/<name>.
    train, test: splits of a class that has `split`; one with `train` has train and test. One that has neither, such as
    EuroSAT, needs a number for test: this part of every class is tested on, the same for every seed.
    size: pixels per side; null: those of the pictures, which must all be squares of that size.
    channels: 3, colour, or 1, grey; null: those of the pictures, of which none may be grey if others are not.
    fit: squash resizes both sides to `size`, crop the shorter one, and takes the middle.
    mean, std: null to measure those of the training part.
    """

    name: str
    options: dict[str, Any]
    root: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root is not None:
            self.root = path("root", self.root)

    def load(self, folder: str) -> Data:
        kind = self.kind()
        takes = arguments(kind)
        root = Path(folder) / (self.root or f"torchvision/{self.name}")
        if "train" not in takes and ("split" not in takes or "split" in self.options) and self.share is None:
            raise UserError(
                f"torchvision's {self.name} has one part; set dataset.test to the part to test on, such as 0.2"
            )

        def opened(place: Path, **more: Any) -> list[Any]:
            return [self.split(kind, place, split, {**self.options, **more}) for split in self.splits]

        def download(place: Path) -> None:
            if "download" not in takes:
                raise RuntimeError(f"torchvision cannot download {self.name}")
            opened(place, download=True)

        page = f"the address in torchvision's documentation of {self.name}"
        splits = fetch(root, ["..."], opened, download, page)
        what = " ".join([f"torchvision's {self.name}", *([str(self.options)] if self.options else []), *self.splits])
        return self.data(what, root, [Pictures(len(one), one.__getitem__) for one in splits], files_below(root), folder)

    def kind(self) -> Any:
        from torchvision import datasets

        kind = getattr(datasets, self.name, None)
        if not (inspect.isclass(kind) and "root" in inspect.signature(kind).parameters):
            close = difflib.get_close_matches(self.name, datasets.__all__, n=1)
            meant = f"; did you mean {close[0]}?" if close else "; see its documentation for those that there are"
            raise UserError(f"dataset.name={self.name} is not a data set of torchvision{meant}")
        return kind

    def split(self, kind: Any, root: Path, split: str, options: dict[str, Any]) -> Any:
        """One split, as torchvision's class; raises UserError if it does not take what is configured."""
        takes = arguments(kind)
        if unknown := options.keys() - takes:
            raise UserError(f"dataset.options={{{unknown.pop()}: ...}} is not an argument of torchvision's {self.name}")
        if "train" in takes:
            if split not in ("train", "test"):
                raise UserError(f"dataset.train and dataset.test of {self.name} are train and test, not {split}")
            options = {"train": split == "train", **options}
        elif "split" in takes:
            options = {"split": split, **options}
        try:
            return kind(str(root), **options)
        except (TypeError, ValueError) as error:  # an argument's value
            raise UserError(
                f"torchvision's {self.name}: {one_line(error)}; set dataset.train, dataset.test or dataset.options"
            ) from error


def arguments(kind: Any) -> set[str]:
    """The names of a class's arguments; those of its base class too if it passes on what it does not know."""
    found = inspect.signature(kind).parameters
    passes_on = any(one.kind is one.VAR_KEYWORD for one in found.values())
    return {*found, *(arguments(kind.__base__) if passes_on else ())}
