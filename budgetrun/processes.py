"""The processes that were started together to train one run, by torchrun or by Slurm: which of them this is."""

from __future__ import annotations

import os

together = False  # whether they have met: before that, all of them find the same errors, and the first one says them


def size() -> int:
    """How many there are; 1 for a process by itself."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """The number of this one among all, from 0. The first one writes and speaks."""
    return int(os.environ.get("RANK", 0)) if size() > 1 else 0


def speaks(error: BaseException) -> bool:
    """Whether this process is to say why it ends: the first one is, and another one that ends by itself."""
    return rank() == 0 or (together and not getattr(error, "said", isinstance(error, KeyboardInterrupt)))


def local_rank() -> int:
    """The number of this one among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))
