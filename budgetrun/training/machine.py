"""The machine that a run uses: device, precision, determinism."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from budgetrun import processes
from budgetrun.errors import UserError

log = logging.getLogger("budgetrun")


def count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def find_device(name: str) -> torch.device:
    """The device that `name` means here, for this process; raises UserError if there is no such device."""
    there, number = count_gpus(), 0
    if there and processes.size() > 1 and name != "cpu":
        if ":" in name:
            raise UserError(f"device={name} is one device for {processes.size()} processes; set device=cuda, or auto")
        # Slurm may show each task a GPU of its own alone
        number = 0 if there == 1 and "SLURM_LOCALID" in os.environ else processes.local_rank()
        if number >= there:
            raise UserError(
                f"this machine has {there} CUDA devices, and at least {number + 1} of the processes; start one for "
                "each device, or set device=cpu"
            )
    if name == "auto":
        return torch.device("cuda", number) if there else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        has = f"it has {there} CUDA device{'s' * (there > 1)}" if there else "it has no CUDA device"
        raise UserError(f"device={name} is not on this machine: {has}; set device=auto or device=cpu")
    return torch.device("cuda", device.index or number) if device.type == "cuda" else device


def own_gpu(worker: int | None) -> str | None:
    """The GPU for a parallel launcher's worker, counted from 1, if there are several: they are assigned in turn."""
    there = count_gpus() if worker is not None else 0
    return f"cuda:{(worker - 1) % there}" if worker is not None and there > 1 else None


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class GlobalRandom:
    """torch's global generators, which dropout draws from, as part of a run's state."""

    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        on_device = {"device": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {"cpu": torch.get_rng_state(), **on_device}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = state.get("each", [state])[0]  # of several processes, the first one's, see RandomOfAll
        torch.set_rng_state(state["cpu"].cpu())
        if "device" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device"].cpu(), self.device)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether the model runs under bf16 autocast."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """The median time of 30 calls, after 5 warm-up calls."""
    times = []
    for _ in range(35):
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[5:])


class Stopwatch:
    """Total time of the device's work between entering and leaving; measured without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.total = 0.0
        self.waiting: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self.stream is not None:
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(self.stream)
        else:
            self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            end = torch.cuda.Event(enable_timing=True)
            end.record(self.stream)
            self.waiting.append((self.event, end))
        else:
            self.total += time.perf_counter() - self.began

    def seconds(self) -> float:
        """The total up to the last leaving; waits for the device."""
        if self.waiting:
            self.waiting[-1][1].synchronize()
            self.total += sum(begin.elapsed_time(end) for begin, end in self.waiting) / 1000  # milliseconds
            self.waiting = []
        return self.total


@contextlib.contextmanager
def profile(deterministic: bool) -> Iterator[None]:
    """Set torch's global flags for a run, and restore them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        # cuBLAS reads it when it is first used; the alternative value :16:8 is slower
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic  # all batches have one shape: find the fastest kernel once
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def describe(device: torch.device) -> dict[str, Any]:
    """Device and versions, for the record."""
    import importlib.metadata

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    packages = ("budgetrun", "torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf")
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    return {"device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "versions": versions}
