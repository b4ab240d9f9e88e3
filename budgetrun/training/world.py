"""The processes that train one run together. Every process plans the same batches, and passes its share of each.

What is expensive is shared: forward and backward passes, looks, evaluations. Losses and logits are gathered, so that
all processes choose the same, and each has the scores of all examples. One process alone is a world of its own.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from budgetrun import processes
from budgetrun.contracts import Batch, Stateful
from budgetrun.errors import Interruption, UserError, one_line
from budgetrun.folder.run import RunFolder
from budgetrun.stored import Stored
from budgetrun.training.machine import find_device

T = TypeVar("T")
LONGEST = timedelta(hours=6)  # that one process waits for another, which may be decoding a data set


class World:
    """One process alone. rank: its number, from 0, of `size` processes."""

    rank, size = 0, 1

    def own(self, batch: Batch) -> Batch:
        """This process's rows of a batch, at least one."""
        return batch

    def own_images(self, images: Tensor | Stored) -> Tensor | Stored:
        """The same of images."""
        return images

    def gathered(self, own: Tensor, count: int) -> Tensor:
        """The rows of all processes in order, [count, ...], from those of `own` or `own_images`."""
        return own

    def gathered_both(self, losses: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The same of the losses [b] and the logits [b, classes] of a batch."""
        return losses, logits

    def mean(self, own: Batch, losses: Tensor, batch: Batch) -> Tensor:
        """A loss [] whose mean over all processes is that of the batch; losses: of this process's rows."""
        return batch.mean(losses)

    def synchronised(self, net: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
        """The network, with BatchNorm whose statistics are those of all processes if that is wanted."""
        return net

    def averaging(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are the mean over all processes."""
        return model

    def same_buffers(self, net: nn.Module) -> None:
        """Give all processes the first one's buffers, such as the running statistics of BatchNorm."""

    def lengths(self, count: int) -> set[int]:
        """How many of `count` rows a process may have."""
        return {count}

    def of_first(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises in the first process, in all of them; it is called there alone."""
        return work()

    def agreed(self, stop: int, due: bool) -> tuple[int, bool]:
        """The highest `stop` of all processes, and whether something is `due` in the first one."""
        return stop, due

    def seconds(self, own: float) -> float:
        """The first process's clock."""
        return own

    def folder(self, folder: RunFolder) -> RunFolder:
        """The run's folder, into which the first process alone writes."""
        return folder

    def state_folder(self, path: Path) -> Path:
        """Where this process keeps the files of a method's state."""
        return path

    def random(self, part: Stateful, seed: int) -> Stateful:
        """torch's global random state, which dropout draws from, of all processes."""
        return part

    def interruption(self) -> Interruption:
        return Interruption()


class Together(World):
    """Several processes, of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # what the host must know does not wait for a GPU
        self.hosts: Any = dist.new_group(backend="gloo", timeout=LONGEST) if device.type == "cuda" else None
        self.scratch = tempfile.TemporaryDirectory()

    def bounds(self, count: int) -> list[int]:
        """Where the shares of `count` rows begin, and the end: the first ones have a row more if it does not divide."""
        each, more = divmod(count, self.size)
        return [rank * each + min(rank, more) for rank in range(self.size + 1)]

    def share(self, count: int) -> slice:
        """This process's rows; the first one instead of none, which `gathered` and `mean` do not count."""
        begin, end = self.bounds(count)[self.rank : self.rank + 2]
        return slice(begin, end) if end > begin else slice(0, 1)

    def own(self, batch: Batch) -> Batch:
        return batch[self.share(len(batch))]

    def own_images(self, images: Tensor | Stored) -> Tensor | Stored:
        rows = self.share(len(images))
        return images.at(torch.arange(len(images))[rows]) if isinstance(images, Stored) else images[rows]

    def gathered(self, own: Tensor, count: int) -> Tensor:
        bounds = self.bounds(count)
        lengths = [end - begin for begin, end in itertools.pairwise(bounds)]
        padded = own.new_zeros(lengths[0], *own.shape[1:])  # all send as many as the first
        padded[: lengths[self.rank]] = own[: lengths[self.rank]]
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with explained():
            dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def gathered_both(self, losses: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        both = self.gathered(torch.cat([losses[:, None], logits], 1), count)  # a message costs 1 ms on a CPU
        return both[:, 0], both[:, 1:]

    def mean(self, own: Batch, losses: Tensor, batch: Batch) -> Tensor:
        begin, end = self.bounds(len(batch))[self.rank : self.rank + 2]
        if begin == end:
            return 0 * losses.sum()
        own.weight = None if batch.weight is None else batch.weight[begin:end]  # `observe` may have changed them
        return own.mean(losses) * ((end - begin) * self.size / len(batch))

    def synchronised(self, net: nn.Module, wanted: bool, device: torch.device) -> nn.Module:
        if not wanted:
            return net
        if device.type != "cuda":
            raise UserError("sync_batchnorm=true works on GPUs alone, as torch's SyncBatchNorm; leave it out")
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(net))

    def averaging(self, model: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(model)

    def same_buffers(self, net: nn.Module) -> None:
        alike: dict[torch.dtype, list[Tensor]] = {}  # one message for all of a type; ResNet-18 has 60 buffers
        for buffer in net.buffers():
            alike.setdefault(buffer.dtype, []).append(buffer)
        for buffers in alike.values():
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            with explained():
                dist.broadcast(flat, 0)
            for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(part.view_as(buffer))

    def lengths(self, count: int) -> set[int]:
        bounds = self.bounds(count)
        return {max(1, end - begin) for begin, end in itertools.pairwise(bounds)}

    def of_first(self, work: Callable[[], T]) -> T:
        found: list[Any] = [None, None]
        if self.rank == 0:
            try:
                found[0] = work()
            except Exception as error:
                found[1] = error
        with explained():
            dist.broadcast_object_list(found, 0, group=self.hosts)
        result, failure = found
        if failure is not None:
            failure.said = self.rank > 0  # by the first process
            raise failure
        return cast(T, result)

    def agreed(self, stop: int, due: bool) -> tuple[int, bool]:
        both = torch.tensor([stop, due and self.rank == 0])
        with explained():
            dist.all_reduce(both, dist.ReduceOp.MAX, group=self.hosts)
        highest, is_due = both.tolist()
        return highest, bool(is_due)

    def seconds(self, own: float) -> float:
        clock = torch.tensor(own, dtype=torch.float64)
        with explained():
            dist.broadcast(clock, 0, group=self.hosts)
        return clock.item()

    def folder(self, folder: RunFolder) -> RunFolder:
        return cast(RunFolder, OfFirst(folder, self))

    def state_folder(self, path: Path) -> Path:
        if self.rank == 0:
            return path
        own = Path(self.scratch.name) / path.name
        shutil.copytree(path, own) if path.exists() else own.mkdir()
        return own

    def random(self, part: Stateful, seed: int) -> Stateful:
        torch.manual_seed(seed + 1_000_003 * self.rank)  # else all processes would drop the same units
        return RandomOfAll(part, self)

    def interruption(self) -> Interruption:
        return Patient()


class Patient(Interruption):
    """A signal is heard between two updates: a process that abandons one leaves the others waiting for it."""

    def begin_long(self) -> None:
        pass


class OfFirst:
    """A run's folder as all processes use it: what is called is done by the first one, and has the result in all."""

    LOCAL = ("last_checkpoint",)  # reads
    ALONE = ("fail", "close")  # when a process ends, others may be gone

    def __init__(self, folder: RunFolder, world: Together) -> None:
        self._folder, self._world = folder, world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._folder, name)
        if not callable(found) or name in self.LOCAL:
            return found
        if name in self.ALONE:
            return found if self._world.rank == 0 else lambda *_: None
        return lambda *arguments: self._world.of_first(functools.partial(found, *arguments))


class RandomOfAll:
    """The global random state of every process, in the checkpoint that the first one writes."""

    def __init__(self, part: Stateful, world: Together) -> None:
        self.part, self.world = part, world

    def state_dict(self) -> dict[str, Any]:
        each: list[Any] = [None] * self.world.size
        with explained():
            dist.all_gather_object(each, self.part.state_dict(), group=self.world.hosts)
        return {"each": each}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        each = state.get("each", [state])
        if self.world.rank < len(each):  # else there were fewer, and this one draws as it was seeded
            self.part.load_state_dict(each[self.world.rank])


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Around what processes do together; raises UserError if another one is gone."""
    try:
        yield
    except RuntimeError as error:  # gloo's and nccl's
        raise UserError(
            f"another process of this run has ended ({one_line(error)[:100]}); start all of them again to go on"
        ) from error


def met(name: str) -> World:
    """The world of this process, on the device of this name. Raises UserError if other processes do not come."""
    if processes.size() == 1:
        return World()
    device = find_device(name)
    if not dist.is_initialized():
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"WORLD_SIZE={processes.size()} asks for several processes, and they do not meet "
                f"({one_line(error)[:100]}); start them with torchrun, or unset WORLD_SIZE"
            ) from error
    processes.together = True
    return Together(device)
