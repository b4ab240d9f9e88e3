"""`python -m benchmarks.ensemble`: the sums of an ensemble of ImageNet's size, with synthetic logits.

Time and memory of adding a member (a file is read and written), and of reading the files of several runs as one
ensemble. The network is left out: what it costs is a forward pass of every image.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from budgetrun import acquisition
from budgetrun.scores.ensemble import Ensemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--examples", type=int, default=1_281_167)
    add("--classes", type=int, default=1000)
    add("--members", type=int, default=2, help="of the one run that is measured; its file is read twice")
    add("--folder", type=Path, help="a disk with room for two files; default: the system's temporary folder")
    options = parser.parse_args()
    n, classes, batch = options.examples, options.classes, 256
    logits = 3 * torch.randn(2 * batch, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % classes

    def everything() -> Iterator[Any]:
        for index in torch.arange(n).split(batch):
            yield SimpleNamespace(index=index, label=labels[index][:, None])

    def look(part: Any) -> tuple[None, torch.Tensor]:
        first = int(part.index[0]) % batch
        return None, logits[first : first + len(part.index)]

    before = peak()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        scorer = Ensemble(members=max(2, options.members), acquisition="mutual_information", since=0.0)
        facts = {"n": n, "classes": classes, "batch_size": batch, "progress": lambda: 0.0}
        context: Any = SimpleNamespace(everything=everything, look=look, state_folder=Path(folder) / "state", **facts)
        scorer.start(context)
        for number in range(scorer.members):
            began = time.perf_counter()
            scorer.take()
            old = scorer.sums.with_name(f"sums-{scorer.taken - 1}.npy")
            old.unlink(missing_ok=True)  # as a checkpoint does
            print(f"member {number + 1}: {time.perf_counter() - began:.1f} s")
        size = scorer.sums.stat().st_size
        began = time.perf_counter()
        acquisition.finished([scorer.sums, scorer.sums], 2 * scorer.taken)
        print(f"reading two files of {size / 1e9:.2f} GB as one ensemble: {time.perf_counter() - began:.1f} s")
    print(f"memory: {peak() / 1e9:.2f} GB at most, of which {before / 1e9:.2f} GB before the first member")


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
