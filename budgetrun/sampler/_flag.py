"""A boolean computed on the device, for a decision on the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Flag:
    """A bool on its way from the device to the host; False before the first `set`.

    `set` starts the copy and returns; `bool()` waits for the work that the device was given before that `set`, and not
    for later work. So a method that sets its flag in `observe` does not wait for the backward pass when it draws.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        # a copy into pageable memory is not asynchronous
        self.value = torch.zeros((), dtype=torch.bool, pin_memory=on_cuda)
        self.copied = torch.cuda.Event() if on_cuda else None

    def set(self, value: Tensor) -> None:
        """value: bool [], on the device."""
        self.value.copy_(value, non_blocking=True)
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(self.device))

    def __bool__(self) -> bool:
        if self.copied is not None:
            self.copied.synchronize()
        return bool(self.value)
