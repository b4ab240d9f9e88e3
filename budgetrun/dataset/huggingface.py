"""Data sets of pictures that Hugging Face's library `datasets` reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgetrun.contracts import Data, UserError, path
from budgetrun.dataset._pictures import OfPictures, Pictures, files_below
from budgetrun.errors import one_line


@dataclass
class HuggingFace(OfPictures):
    """A data set that the library `datasets` reads: a folder saved by `save_to_disk`, or what `load_dataset` takes.

    The classes are those that occur, in the order of their numbers or names.
    path: below `data_dir`, or an absolute path; or a name on the Hub, such as `ylecun/mnist`, which is downloaded.
    image, label: the columns; null for the only one that the library knows as pictures, and as classes.
    train, test: the names of the splits. test may instead be a number such as 0.2: this part of every class of train is
    tested on, the same for every seed.
    size: pixels per side; null: those of the pictures, which must all be squares of that size.
    channels: 3, colour, or 1, grey; null: those of the pictures, of which none may be grey if others are not.
    fit: squash resizes both sides to `size`, crop the shorter one, and takes the middle.
    mean, std: null to measure those of the training part.
    """

    path: str
    image: str | None
    label: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.path = path("path", self.path)

    def load(self, folder: str) -> Data:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                "dataset=huggingface needs the package datasets; python -m pip install 'budgetrun[huggingface]'"
            ) from error
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        place = Path(folder) / self.path
        try:
            found = self.read(datasets, place, folder)
        except Exception as error:  # the library raises many kinds
            raise UserError(
                f"dataset.path={self.path} cannot be read by the library datasets ({one_line(error)}); set it to a "
                f"folder below {folder}, an absolute path, or a name on the Hub"
            ) from error
        splits = found if isinstance(found, dict) else {"train": found}
        if missing := [name for name in self.splits if name not in splits]:
            share = ", or dataset.test to the part of train to test on, such as 0.2" if self.share is None else ""
            raise UserError(
                f"{self.path} has no split {missing[0]}, but {', '.join(splits)}; set dataset.train and "
                f"dataset.test to two of them{share}"
            )
        chosen = [splits[name] for name in self.splits]
        image = self.column("image", chosen[0].features, datasets.Image)
        label = self.column("label", chosen[0].features, datasets.ClassLabel)
        files = {Path(file["filename"]) for split in chosen for file in split.cache_files}
        files |= set(files_below(place))

        def pictures(split: Any) -> Pictures:
            rows = split.select_columns([image, label])

            def read(number: int) -> tuple[Any, Any]:
                row = rows[number]
                return row[image], row[label]

            return Pictures(len(rows), read)

        what = f"{self.path} ({image}, {label}) {' '.join(self.splits)}"
        return self.data(what, place, list(map(pictures, chosen)), sorted(files), folder)

    def read(self, datasets: Any, place: Path, folder: str) -> Any:
        """A DatasetDict of splits, or one Dataset."""
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            return datasets.load_from_disk(str(place))
        if not place.exists() and (
            Path(self.path).is_absolute() or self.path.startswith(".") or self.path.count("/") > 1
        ):
            raise FileNotFoundError(f"there is no {place}")
        cache = str(Path(folder) / "huggingface")
        if place.is_file():
            kind = {"parquet": "parquet", "arrow": "arrow"}.get(place.suffix[1:])
            if kind is None:
                raise ValueError(f"{place} is no parquet or arrow file, and no folder")
            return datasets.load_dataset(kind, data_files=str(place), cache_dir=cache)
        return datasets.load_dataset(str(place) if place.exists() else self.path, cache_dir=cache)

    def column(self, key: str, features: Any, kind: Any) -> str:
        """The column of pictures or of labels; raises UserError if there is no such column, or several."""
        chosen: str | None = getattr(self, key)
        if chosen is None:
            fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
            if len(fitting) != 1:
                raise UserError(
                    f"{self.path} has {len(fitting) or 'no'} columns of type {kind.__name__}; set dataset.{key} to one "
                    f"of {', '.join(features)}"
                )
            return fitting[0]
        if chosen not in features:
            raise UserError(f"{self.path} has no column dataset.{key}={chosen}, but {', '.join(features)}")
        return chosen
