"""The clock of a run: what has been spent, in four units, and what share of the budget that is."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from budgetrun.contracts import Course, Settings, UserError, one
from budgetrun.errors import at_own
from budgetrun.training.machine import synchronize

WHOLE = Course()  # the budget from its beginning to its end
SHORTEST = 1e-5  # seconds that an update takes at least: it makes about a hundred calls


class Flops(NamedTuple):
    """What one image costs: in a forward pass, and in the forward and the backward pass of an update."""

    forward: int
    update: int


class Place(NamedTuple):
    """Where an update is on the course of a schedule.

    progress: through the schedule, in [0, 1]. update: the part of the schedule that one update is, in (0, 1]. risen:
    how far the warm-up has come, in (0, 1]: of m updates, the first one has 1/m of the learning rate, the last one all.
    """

    progress: float
    update: float
    risen: float


@dataclass
class Budget:
    """Counts and limits what a run spends.

    unit: one of UNITS. allowed: the budget in that unit. step: what one update of the full training run costs in it.
    full: how many updates that run makes.

    A budget of B allows round(B x full) uniform updates, or what they cost in another unit, so that uniform sampling
    makes the same number of updates in every unit. An update starts while there is budget left: a run exceeds its
    budget by less than one update, and not at all if updates are counted.
    """

    unit: str
    allowed: float
    step: float
    device: torch.device
    full: int = 0
    updates: int = 0
    examples_forward: int = 0
    examples_backward: int = 0
    examples_looked: int = 0  # looked at before training, with the model or with a second one
    flops: int = 0
    seconds: float = 0.0
    shared: int = 0  # FLOPs of this run that a run with a larger budget spent for both
    before: dict[str, int] = field(default_factory=dict)  # FLOPs of each run that led to this one, not of this budget
    _since: float | None = field(default=None, repr=False)
    clock: Callable[[float], float] = field(default=float, repr=False)  # the first process's, if there are several

    @staticmethod
    def of(settings: Settings, full: int, flops: Flops, full_seconds: float, device: torch.device) -> Budget:
        """What the settings allow, given the updates of the full training run, and its seconds if those are counted.

        flops: of an image in the full training run, which trains all layers on images of full size.
        """
        costs: dict[str, float] = {
            "updates": 1,
            "examples": settings.batch_size,
            "flops": settings.batch_size * flops.update,
            "seconds": full_seconds / full,
        }
        step = costs[settings.budget_unit]
        return Budget(settings.budget_unit, round(settings.budget * full) * step, step, device, full)

    @property
    def flops_before(self) -> int:
        """FLOPs of the runs whose files led to this one, each counted once."""
        return sum(self.before.values())

    @property
    def spent(self) -> float:
        """In the budget's own unit."""
        match self.unit:
            case "updates":
                return self.updates
            case "examples":
                return self.examples_backward
            case "flops":
                return self.flops
        return self.clock(self.seconds_now())

    @property
    def share(self) -> float:
        """How much of it is spent, in [0, 1]."""
        return min(1.0, self.spent / self.allowed)

    def seconds_now(self) -> float:
        """The seconds that count, up to this moment."""
        return self.seconds if self._since is None else self.seconds + time.perf_counter() - self._since

    @property
    def progress(self) -> float:
        """0 at the first update, 1 at the last (where updates cost what uniform ones do)."""
        return self.on(WHOLE).progress

    def on(self, course: Course) -> Place:
        """Where the next update is on the course of a schedule."""
        horizon = self.full * self.step if course.horizon == "full" else self.allowed
        before, spent = course.warmup * horizon, self.spent
        rest = horizon - before
        risen = min(1.0, (spent + self.step) / before) if before else 1.0
        progress = min(1.0, max(0.0, spent - before) / (rest - self.step)) if rest > self.step else 0.0
        return Place(progress, min(1.0, self.step / rest), risen)

    def charge_look(self, images: int, flops: int) -> None:
        """Charge passes that are not updates. flops: of one image's pass."""
        self.examples_forward += images
        self.examples_looked += images
        self.flops += images * flops

    def charge_update(self, images: int, flops: int) -> None:
        """Charge one update on that many images. flops: of one image's forward and backward pass."""
        self.updates += 1
        self.examples_forward += images
        self.examples_backward += images
        self.flops += images * flops
        if self.unit == "seconds" and self.updates % 10 == 0:
            synchronize(self.device)  # else the host would launch updates before their time is counted

    def start(self) -> None:
        """Start counting seconds."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop counting seconds: evaluation and writing are free. Waits for the device's work to end."""
        synchronize(self.device)
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block takes no counted seconds."""
        self.stop()
        yield
        self.start()

    def realised(self) -> dict[str, float]:
        """What was spent, in every unit."""
        names = ("updates", "examples_forward", "examples_backward", "flops", "seconds")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        spent = {**self.realised(), "examples_looked": self.examples_looked, "before": self.before}
        return {**spent, "shared": self.shared, "allowed": self.allowed, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def full_updates(settings: Settings, examples: int) -> int:
    """Updates of the full training run: epochs x floor(N / batch size).

    Raises UserError if the budget is less than one update, or full_seconds is too short for that many.
    """
    full = int(settings.epochs * (examples // settings.batch_size))
    if round(settings.budget * full) < 1:
        raise UserError(
            f"budget={settings.budget:g} of {full} updates is not even one; set a larger budget or more epochs"
        )
    if settings.full_seconds is not None and settings.full_seconds / full < SHORTEST:
        raise UserError(
            f"full_seconds={settings.full_seconds:g} for {full} updates is less than {SHORTEST} seconds for one, "
            "faster than any machine; set it to what a full training run takes"
        )
    return full


def model_flops(model: nn.Module, shape: torch.Size, classes: int | None = None) -> Flops:
    """FLOPs of one image [C, H, W], with the parameters that require gradients.

    Counted by torch on the meta device (a multiplication and an addition count as two), so it takes no memory, and 0.1
    to 0.5 s for a ResNet. Raises UserError if the model does not fit the images, or returns no logits [B, classes].
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"the model's build returns {one(model)}, and must return a torch.nn.Module")
    twin = copy.deepcopy(model).to("meta")
    images = torch.empty(2, *shape, device="meta")  # two images: BatchNorm cannot train on one value per channel
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as forward:  # a look may ask
            logits: Any = twin(images)
        if not isinstance(logits, Tensor) or (classes is not None and logits.shape != (2, classes)):
            what = list(logits.shape) if isinstance(logits, Tensor) else one(logits)
            raise UserError(
                f"the model returns {what} for 2 images, and must return logits, [2, {classes or 'classes'}]"
            )
        last = logits.grad_fn.name() if logits.grad_fn is not None else ""
        if last in ("SoftmaxBackward0", "SigmoidBackward0"):
            # as logits in [0, 1], they leave no one of 10 classes likelier than 23%. Log-probabilities are logits:
            # their softmax, and its gradients, are those of the logits that they were made from
            raise UserError(
                f"the model ends in {last.removesuffix('Backward0')}, and must return logits: losses and looks take "
                "their softmax; leave that last step out"
            )
        with torch.enable_grad(), FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip().partition("\n")[0] or type(error).__name__) + at_own(error)
        raise UserError(
            f"the model does not fit images of {shape[0]}x{shape[1]}x{shape[2]} ({reason}); choose another model"
        ) from error
    once = forward.get_total_flops() // 2
    return Flops(once, once + backward.get_total_flops() // 2)
