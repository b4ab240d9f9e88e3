"""A network in training: the model with its optimizer, loss and precision. It charges nothing: its callers do."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Data, GivesViews, Model, Random, passes
from budgetrun.softmax import divergence
from budgetrun.stored import Stored
from budgetrun.training import machine
from budgetrun.training.budget import Flops, model_flops
from budgetrun.training.checks import built, check_memory, outline, shapes_of
from budgetrun.training.data import Normalize, cropped, scaled, trained_shape
from budgetrun.training.layers import Layer, in_order
from budgetrun.training.record import Diverged
from budgetrun.training.returned import check_optimizer
from budgetrun.training.views import Views
from budgetrun.training.world import World

log = logging.getLogger("budgetrun")
Observe = Callable[[Batch, Tensor, Tensor], None]


def unobserved(batch: Batch, losses: Tensor, logits: Tensor) -> None:
    pass


class Network:
    """net: the module, on the device. model: the same, or its compiled form. lr, momentum: of the next update; momentum
    is None where the optimizer's own stays.

    flops: of an image of full size, with all layers training. frozen: how many layers, from the first on, no longer
    train. Raises UserError if the model does not fit the images or the memory, before it takes any.
    """

    costs: dict[tuple[torch.Size, int], Flops]  # by an image's shape and the number of frozen layers
    resting: list[nn.Module]  # frozen modules that stay in evaluation mode

    def __init__(
        self, kind: Model, experiment: Experiment, data: Data, device: torch.device, world: World | None = None
    ) -> None:
        settings, shape = experiment.settings, trained_shape(data, experiment.settings)
        self.empty, self.passes = outline(kind, data, settings), passes(experiment.aug)
        self.shape, self.classes = shape, data.classes
        self.costs, self.frozen, self.resting = {}, 0, []
        self.flops = self.counted(shape)
        for other in shapes_of(experiment, shape):
            self.counted(other)
        check_memory(self.empty, data, settings, device, self.passes)
        self.empty.to("meta")
        self.device, self.world = device, world or World()
        net = self.world.synchronised(built(kind, data, settings), settings.sync_batchnorm, device)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Any = self.net
        self.averaging: Any = self.world.averaging(self.net)  # the same for updates
        self.mode = settings.compile_mode
        self.loss, self.lr = experiment.loss, settings.lr
        self.momentum: float | None = None
        self.consistency = sum(step.consistency for step in experiment.aug if isinstance(step, GivesViews))
        self.optimizer = experiment.optimizer.build(self.net.parameters(), settings.lr, settings.weight_decay)
        check_optimizer(self.optimizer, experiment.optimizer)
        self.normalize = Normalize(data, device)
        self.bf16 = machine.uses_bf16(settings.precision, device)

    def forward(self, images: Tensor, model: Callable[[Tensor], Any], scale: float = 1.0) -> Tensor:
        """Logits in float32, whatever the model's precision, of images whose sides are scaled."""
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            logits: Tensor = model(self.normalize(images, scale))
        return logits.to(torch.float32, copy=self.mode != "default")  # CUDA graphs write into the same memory again

    def logits(self, images: Tensor | Stored, part: int, model: Callable[[Tensor], Any], scale: float = 1.0) -> Tensor:
        """The same for many images, `part` at a time; each process passes its share."""
        self.world.same_buffers(self.net)
        own = self.world.own_images(images)
        return self.world.gathered(
            torch.cat([self.forward(some, model, scale) for some in own.split(part)]), len(images)
        )

    def update(self, batch: Batch, observe: Observe = unobserved) -> Tensor:
        """Make one update on a batch, of which each process passes its share; returns the loss [] before it.

        That is the loss of the batch's own images, without the divergence of further views.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
            if self.momentum is not None and "betas" in group:
                group["betas"] = (self.momentum, *group["betas"][1:])
            elif self.momentum is not None:
                group["momentum"] = self.momentum
        own = self.world.own(batch)
        # all views in one pass, as AugMix's code does: BatchNorm normalises over all
        of_all_views = self.forward(own.views(), self.averaging)
        of_views = (of_all_views,) if own.others is None else of_all_views.split(len(own))
        logits = of_views[0]
        losses = self.loss(logits, own)
        of_all, logits_of_all = self.world.gathered_both(losses.detach(), logits.detach(), len(batch))
        observe(batch, of_all, logits_of_all)
        if own.others is not None:
            losses = losses + self.consistency * divergence(torch.stack(of_views))
        loss = self.world.mean(own, losses, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach() if own is batch and batch.others is None else batch.mean(of_all)

    def cost(self, images: Tensor | Stored, scale: float = 1.0) -> Flops:
        """What one of these images [B, C, H, W] costs now, if its sides are scaled."""
        sides = scaled(cropped(images.shape[2:], self.normalize.crop), scale)
        return self.counted(torch.Size((images.shape[1], *sides)))

    def counted(self, shape: torch.Size) -> Flops:
        if (shape, self.frozen) not in self.costs:
            self.costs[shape, self.frozen] = model_flops(self.empty, shape, self.classes)
        return self.costs[shape, self.frozen]

    @functools.cached_property
    def layers(self) -> list[Layer]:
        """Those with parameters, in the order in which images pass them; see Freezing."""
        return in_order(self.empty, self.shape)

    def freeze(self, count: int, resting: bool) -> None:
        """Train all layers but the first `count`. resting: whether these stay in evaluation mode.

        A frozen parameter has no gradient, so the optimizer leaves it as it is, without momentum and weight decay.
        """
        self.frozen = count
        training = {name for layer in self.layers[count:] for name in layer.parameters}
        for net in (self.net, self.empty):
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(name in training)
                parameter.grad = None
        modules = [self.net.get_submodule(name) for layer in self.layers[:count] for name in layer.modules]
        self.resting = [m for m in modules if resting and not any(p.requires_grad for p in m.parameters())]
        self.train()
        self.averaging = self.world.averaging(self.model)
        for shape in {shape for shape, _ in self.costs}:
            self.counted(shape)

    def train(self, training: bool = True) -> None:
        """Training mode, or evaluation mode."""
        self.model.train(training)
        for module in self.resting:
            module.training = False

    @torch.no_grad()
    def evaluate(self, images: Tensor | Stored, labels: Tensor) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean cross-entropy."""
        logits = self.of_all(images)
        return (logits.argmax(1) == labels).sum().item() / len(labels), F.cross_entropy(logits, labels).item()

    def recalls(self, images: Tensor | Stored, labels: Tensor, classes: int) -> Tensor:
        """The accuracy [classes] of each class; of a class without images, that of all."""
        right = (self.of_all(images).argmax(1) == labels).float()
        sums = right.new_zeros(classes).index_add(0, labels, right)
        counts = labels.bincount(minlength=classes)
        return torch.where(counts > 0, sums / counts.clamp(min=1), right.mean())

    def of_all(self, images: Tensor | Stored) -> Tensor:
        """The logits [N, classes] in evaluation mode."""
        self.net.eval()
        # small parts stay in a CPU's cache: with cnn at 28x28, 250 images at a time are 1.8 times faster than 1000
        logits = self.logits(images, 250 if self.device.type == "cpu" else 2000, self.net)
        self.train()
        return logits

    def check_finite(self, updates: int) -> None:
        """Raise Diverged if a weight is infinite or not a number; waits for the device once."""
        if not torch.stack([p.isfinite().all() for p in self.net.parameters()]).all():
            raise Diverged(
                f"the weights became infinite or not a number by update {updates} (learning rate {self.lr:.3g})"
            )

    def compile(self, images: Tensor | Stored, sizes: set[int]) -> None:
        """Compile the model for batches of these sizes, and of images of every size that the run trains on, before any
        update. images: at least the largest batch."""
        import torch._dynamo.config

        began = time.perf_counter()
        sizes = set().union(*map(self.world.lengths, sizes))
        self.model = torch.compile(self.net, dynamic=False, mode=self.mode)
        self.averaging = self.world.averaging(self.model)
        # with CUDA graphs, the first run of a size warms up and the second is recorded
        times = 1 if self.mode == "default" else 3
        # by default, torch stops at 8 compilations: these are one for each size, and two for looks, of every shape
        shapes = [shape for shape, _ in self.costs]
        limit = max(8, (len(sizes) + 2) * len(shapes))
        with torch._dynamo.config.patch(recompile_limit=limit), self.unchanged():
            for _, height, width in shapes:
                some = images[: max(sizes)][:, :, :height, :width]
                for size in sorted(sizes, reverse=True):
                    for _ in range(times):
                        self.forward(some[:size].repeat(self.passes, 1, 1, 1), self.model).sum().backward()
                with torch.no_grad():  # looks, in both modes
                    for training in (False, True):
                        self.train(training)
                        for _ in range(times):
                            self.forward(some, self.model)
        log.info("compiled in %.1f s, outside the budget", time.perf_counter() - began)

    @contextlib.contextmanager
    def as_compiled(self) -> Iterator[None]:
        """Nothing is compiled in this block: batches of other sizes run uncompiled.

        Compiling for one takes 2 to 30 s on two cores, which would count as seconds of training.
        """
        with contextlib.nullcontext() if self.model is self.net else torch.compiler.set_stance("eager_on_recompile"):
            yield

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """After this block, weights, buffers, the optimizer and torch's global random state are as they were."""
        state, random = copy.deepcopy(self.state_dict()), machine.GlobalRandom(self.device)
        before = random.state_dict()
        yield
        self.net.zero_grad()
        self.load_state_dict(state)
        random.load_state_dict(before)

    def seconds_per_update(self, experiment: Experiment, data: Data) -> float:
        """How long a uniform update takes here, compiled if the run is; with random numbers of its own."""
        settings = experiment.settings
        random = Random.seeded(settings.seed, "calibration", self.device)
        view, n = Views(data, experiment.aug, random), len(data.labels)

        def update() -> None:
            batch = view(torch.randint(n, (settings.batch_size,), generator=random.device, device=self.device))
            batch.others = None  # further views are what a method spends, as looks are
            self.update(batch)

        with self.unchanged():
            return machine.seconds_of(update, self.device)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr = self.optimizer.param_groups[0]["lr"]
