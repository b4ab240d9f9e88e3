"""How much memory there is, and whether a run fits into it: checked beforehand, so that no process is killed."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from budgetrun.errors import UserError, one_line

CPU = torch.device("cpu")
CONTROL_GROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of containers and of Slurm's jobs


def total(device: torch.device = CPU) -> int:
    """The most bytes that a process can have: the GPU's; or the machine's, or the lowest limit set below that."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [] if soft == resource.RLIM_INFINITY else [soft]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits, *group_limits()])


def group_limits() -> Iterator[int]:
    """The limits of the control groups that this process is in, of either version."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0":
                mount, name = CONTROL_GROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                mount, name = CONTROL_GROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            place = mount / group.lstrip("/")
            for folder in (place, *place.parents):
                with contextlib.suppress(OSError, ValueError):  # no limit: no such file, or the word max
                    yield int((folder / name).read_text())


def check(needed: int, what: str, remedy: str, device: torch.device = CPU) -> None:
    """Raise UserError if more bytes are needed than there are. what: what needs them, in the plural."""
    if needed > (there := total(device)):
        takes = f"they take {in_units(needed)}, and there are {in_units(there)}"
        raise UserError(f"{what} do not fit into memory: {takes}; {remedy}")


def in_units(count: float) -> str:
    """A number of bytes in words: 1.5 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.0f} TiB" if count < 1e6 else f"{count:.1e} TiB"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Around work that may run out of memory: raises UserError if it does."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError
        # the messages of torch, on a CPU and a GPU, and of NumPy; Python's own has none
        asked = re.search(r"(?:tried|unable) to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
        if asked is None and (str(error) or isinstance(error, RuntimeError)):
            raise
        raise UserError(
            f"there is not enough memory ({asked[0] if asked else one_line(error)}); set batch_size or image_size "
            "lower, choose a smaller model, or run fewer at once"
        ) from error
