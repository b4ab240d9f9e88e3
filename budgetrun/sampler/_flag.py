"""A boolean computed on the device, by which the host decides."""

from __future__ import annotations

import torch
from torch import Tensor


class Flag:
    """A bool on its way from the device to the host; False before the first `set`.

    `set` asks for the copy and goes on; `bool()` waits for what was asked of the device up to that `set`, and for
    nothing after it. So a method that sets its flag in `observe` does not wait for the backward pass when it draws.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        # a copy into ordinary memory is not asynchronous
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
