"""A pretended CUDA device, for a machine without one: where would devices mix, and where would the host wait?

Its tensors say `cuda:0` or `cuda:1`, and their values are on the CPU. What CUDA refuses is refused: tensors or
generators of different devices in one operation. What would make the host wait for the device is counted, with the
function of budgetrun that asked for it. Kernels, memory and speed need a real device.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICES = 2
CPU = torch.device("cpu")
COPIES = ("copy_", "_to_copy")  # the operations that may have tensors of two devices
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")  # and, for the indices, these


def leaves(args: Any, kwargs: Any) -> Iterator[Any]:
    """Arguments, and those in lists of them."""
    for one in (*args, *kwargs.values()):
        if isinstance(one, (list, tuple)):
            yield from one
        else:
            yield one


def numbered(device: Any) -> torch.device:
    """The device with its number: `cuda` is `cuda:0`."""
    found = torch.device(device)
    return torch.device("cuda", 0) if found.type == "cuda" and found.index is None else found


class OnDevice(Tensor):
    """A tensor that says that it is on a CUDA device. value: the tensor on the CPU that it stands for."""

    value: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, value: Tensor, place: torch.device) -> OnDevice:
        # autograd would ask a tensor of type cuda for its stream; this one is of type meta, but for its dispatch keys
        like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, like, False, dispatch_device=True, device_for_backend_keys=place)
        made.value, made.place = value, place
        return made

    device = property(lambda self: self.place)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        assert Pretended.active is not None, "the pretended device is gone"
        return Pretended.active.__torch_dispatch__(func, types, args, kwargs)

    def to(self, *args: Any, copy: bool = False, **options: Any) -> Tensor:
        device, dtype, free, layout = torch._C._nn._parse_to(*args, **options)
        device = args[0].device if args and isinstance(args[0], Tensor) else device
        if device is not None and numbered(device) != self.place:
            return torch.ops.aten._to_copy(self, device=device, dtype=dtype, non_blocking=free, memory_format=layout)
        other = dtype not in (None, self.dtype) or (layout is not None and not self.is_contiguous(memory_format=layout))
        return torch.ops.aten._to_copy(self, dtype=dtype, memory_format=layout) if copy or other else self

    def cpu(self, *args: Any) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy")

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.place, **options})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            twin: Tensor = OnDevice(self.value.detach().clone(), self.place)
            if isinstance(self, torch.nn.Parameter):
                twin = torch.nn.Parameter(twin, self.requires_grad)
            memo[id(self)] = twin
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.value.__reduce_ex__(protocol)  # in a file, it is one on the CPU


class Generator(torch.Generator):
    """A generator of a device, with the numbers of one on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.place = numbered(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    place: torch.device
    device = property(lambda self: self.place)


class Pretended(TorchDispatchMode):
    """While it is entered, there are CUDA devices. waits: how often the host waited, by place and reason."""

    active: Pretended | None = None

    def __init__(self) -> None:
        super().__init__()
        self.like = Like()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.operations = 0
        self.counting = True

    def wait(self, why: str, times: int = 1) -> None:
        if self.counting:
            self.waits[place_in_budgetrun(sys._getframe(1)), why] += times

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return CPU  # for C++, which would make it the current device; Python asks OnDevice.device
        name = func._schema.name.split("::")[1]
        tensors = [leaf for leaf in leaves(args, kwargs) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        place = there[0].place if there else None
        self.operations += bool(there) and self.counting
        self.refuse(func, name, tensors, there)
        if there:
            self.count(func, name, args, kwargs)
        asked = numbered(kwargs["device"]) if kwargs.get("device") is not None else None
        if asked == CPU and not tensors:
            asked = self.like.place or asked
        self.count_copy(name, args, kwargs, asked)
        if asked is not None:
            kwargs["device"] = CPU if asked.type == "cuda" else asked
            place = asked if asked.type == "cuda" else None
        pinned = bool(kwargs.get("pin_memory")) and not kwargs.update(pin_memory=False)

        def value(one: Any) -> Any:
            return one.value if isinstance(one, OnDevice) else one

        out = func(*tree_map(value, args), **tree_map(value, kwargs))
        if pinned:
            out.pinned = True
        if place is None or (name == "copy_" and not isinstance(args[0], OnDevice)):
            return args[0] if name == "copy_" else out
        same = {id(one.value): one for one in there}  # in place, and `out=`

        def wrapped(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            return same[id(one)] if id(one) in same else OnDevice(one, place)

        return tree_map(wrapped, out)

    def refuse(self, func: Any, name: str, tensors: list[Tensor], there: list[OnDevice]) -> None:
        """Raise what CUDA would raise for tensors of several devices. A number on the CPU may go with any tensor."""
        if name in COPIES or not there:
            return
        if len({one.place for one in there}) > 1:
            raise RuntimeError(f"{name}: tensors of {' and '.join(sorted({str(one.place) for one in there}))}")
        away = [one for one in tensors if not isinstance(one, OnDevice)]
        numbers = torch.Tag.pointwise in func.tags or name.startswith("_foreach")
        if name not in INDEXING and any(one.dim() or not numbers for one in away):
            raise RuntimeError(
                f"{name}: tensors on the CPU, {[list(one.shape) for one in away]}, with one on the device"
            )

    def count(self, func: Any, name: str, args: Any, kwargs: Any) -> None:
        """Count the waits of an operation on the device."""
        if name in INDEXING:
            fill = name != "index" and name != "_unsafe_index" and args[2].numel() == 1
            for index in filter(None.__ne__, args[1]):
                if not isinstance(index, OnDevice):
                    self.wait("an index on the CPU")
                elif index.dtype in (torch.bool, torch.uint8) and not fill:
                    self.wait("a mask: how many are there?")
        elif name == "multinomial":
            count, again = args[1], args[2] if len(args) > 2 else kwargs.get("replacement", False)
            if not again or count == 1:
                self.wait("multinomial looks at its weights, twice", 2)
        elif torch.Tag.data_dependent_output in func.tags:
            self.wait("a value is read")
        elif name == "bincount" or torch.Tag.dynamic_output_shape in func.tags:
            self.wait(f"{name}: how many are there?")
        elif name == "_linalg_check_errors":
            self.wait("did it succeed?")

    def count_copy(self, name: str, args: Any, kwargs: Any, asked: torch.device | None) -> None:
        """Count the wait of a copy between host and device."""
        if name == "copy_":
            target, source = isinstance(args[0], OnDevice), isinstance(args[1], OnDevice)
            free = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif name == "_to_copy" and asked is not None:
            target, source = asked.type == "cuda", isinstance(args[0], OnDevice)
            free = bool(kwargs.get("non_blocking", False))
        else:
            return
        if source and not target and not (free and name == "copy_" and getattr(args[0], "pinned", False)):
            self.wait("a copy to the host")
        if target and not source and not free:
            self.wait("a copy from the host")


class Like(TorchFunctionMode):
    """Where a function that Python calls has its tensors: C++, which is told `cpu`, makes others like them there."""

    place: torch.device | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": numbered(kwargs["device"])}  # C++ would ask for the current device
        if func is Tensor.to and args[1:]:
            match args[1]:
                case OnDevice() as other:
                    args = (args[0], other.place, other.dtype, *args[2:])
                case str() | torch.device():
                    args = (args[0], numbered(args[1]), *args[2:])
        place = next((placed for one in leaves(args, kwargs) if (placed := place_of(one)) is not None), None)
        of_result = numbered(kwargs["device"]) if kwargs.get("device") else place or CPU
        for one in (*args, *kwargs.values()):
            if isinstance(one, Generator) and one.place != of_result:
                raise RuntimeError(f"{func.__name__}: a generator of {one.place} for a tensor on {of_result}")
        before, self.place = self.place, place if "device" not in kwargs else None
        try:
            return func(*args, **kwargs)
        finally:
            self.place = before


def place_of(one: Any) -> torch.device | None:
    """The pretended device of a tensor, also inside torch.func.vmap and grad; None of anything else."""
    while isinstance(one, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(one):
        one = torch._C._functorch.get_unwrapped(one)
    return one.place if isinstance(one, OnDevice) else None


class Stream:
    def is_capturing(self) -> bool:
        return False


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return 1.0

    def synchronize(self) -> None:
        assert Pretended.active is not None
        Pretended.active.wait("an event")


def place_in_budgetrun(frame: FrameType | None) -> str:
    """The innermost function of the package that is running, as `sampler/_flag.py Flag.__bool__`."""
    while frame is not None:
        _, _, path = frame.f_code.co_filename.rpartition("/budgetrun/")
        if path and "site-packages" not in frame.f_code.co_filename and "/benchmarks/" not in frame.f_code.co_filename:
            return f"{path} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Pretended]:
    """Two CUDA devices, in this process and as long as it takes."""
    mode = Pretended()
    random: dict[torch.device, Tensor] = {}

    def synchronize(device: Any = None) -> None:
        mode.wait("for all its work")

    def current_stream(device: Any = None) -> Stream:
        return Stream()

    stand_ins = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: DEVICES,
        "current_device": lambda: 0,
        "current_stream": current_stream,
        "synchronize": synchronize,
        "Event": Event,
        "get_rng_state": lambda device="cuda": random.get(numbered(device), torch.zeros(16, dtype=torch.uint8)),
        "set_rng_state": lambda state, device="cuda": random.update({numbered(device): state}),
        "manual_seed_all": lambda seed: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "pretended",
        "get_device_properties": lambda device=None: mock.Mock(total_memory=2**36),
        "mem_get_info": lambda device=None: (2**36, 2**36),
        "is_current_stream_capturing": lambda: False,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", current_stream))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(Pretended, "active", mode))
        overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's type changes on its way
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes it on the CPU first
        try:
            with mode, mode.like:
                yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
