"""A network in training: the model with its optimizer, loss and precision. It charges nothing: its callers do."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from budgetrun.config import Experiment
from budgetrun.contracts import Batch, Data, Model, Random
from budgetrun.training import machine
from budgetrun.training.budget import model_flops
from budgetrun.training.checks import check_memory, outline
from budgetrun.training.data import Normalize, trained_shape
from budgetrun.training.record import Diverged
from budgetrun.training.views import Views

Observe = Callable[[Batch, Tensor, Tensor], None]


def unobserved(batch: Batch, losses: Tensor, logits: Tensor) -> None:
    pass


class Network:
    """net: the module, on the device. model: the same, or its compiled form. lr: of the next update.

    flops: of one image's forward pass, and of its forward and backward pass. Raises UserError if the model does not fit
    the images or the memory, before it takes any.
    """

    def __init__(self, kind: Model, experiment: Experiment, data: Data, device: torch.device) -> None:
        settings, shape = experiment.settings, trained_shape(data, experiment.settings)
        empty = outline(kind, data)
        self.flops = model_flops(empty, shape)
        check_memory(empty, data, settings, device)
        self.device = device
        net = kind.build(shape[0], data.classes)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Any = self.net
        self.loss, self.lr = experiment.loss, settings.lr
        self.optimizer = experiment.optimizer.build(self.net.parameters(), settings.lr, settings.weight_decay)
        self.normalize = Normalize(data, device)
        self.bf16 = machine.uses_bf16(settings.precision, device)

    def forward(self, images: Tensor, model: Callable[[Tensor], Any]) -> Tensor:
        """Logits in float32, whatever the model's precision."""
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            logits: Tensor = model(self.normalize(images))
        return logits.float()

    def logits(self, images: Tensor, part: int, model: Callable[[Tensor], Any]) -> Tensor:
        """The same for many images, `part` at a time."""
        return torch.cat([self.forward(some, model) for some in images.split(part)])

    def update(self, batch: Batch, observe: Observe = unobserved) -> Tensor:
        """Make one update on a batch; returns the loss [] before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        logits = self.forward(batch.images, self.model)
        losses = self.loss(logits, batch)
        observe(batch, losses.detach(), logits.detach())
        loss = batch.mean(losses)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean cross-entropy."""
        logits = self.of_all(images)
        return (logits.argmax(1) == labels).sum().item() / len(labels), F.cross_entropy(logits, labels).item()

    def recalls(self, images: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The accuracy [classes] of each class; of a class without images, that of all."""
        right = (self.of_all(images).argmax(1) == labels).float()
        sums = right.new_zeros(classes).index_add(0, labels, right)
        counts = labels.bincount(minlength=classes)
        return torch.where(counts > 0, sums / counts.clamp(min=1), right.mean())

    def of_all(self, images: Tensor) -> Tensor:
        """The logits [N, classes] in evaluation mode."""
        self.net.eval()
        # small parts stay in a CPU's cache: with cnn at 28x28, 250 images at a time are 1.8 times faster than 1000
        logits = self.logits(images, 250 if self.device.type == "cpu" else 2000, self.net)
        self.net.train()
        return logits

    def check_finite(self, updates: int) -> None:
        """Raise Diverged if a weight is infinite or not a number; waits for the device once."""
        if not torch.stack([p.isfinite().all() for p in self.net.parameters()]).all():
            raise Diverged(
                f"the weights became infinite or not a number by update {updates} (learning rate {self.lr:.3g})"
            )

    def compile(self, images: Tensor) -> None:
        """Compile the model for batches like this one [B, C, H, W], before any update."""
        self.model = torch.compile(self.net)
        machine.compile_now(self.model, lambda: self.forward(images, self.model), self.device)

    def seconds_per_update(self, experiment: Experiment, data: Data) -> float:
        """How long a uniform update takes here: measured on a copy, with its own random numbers."""
        settings = experiment.settings
        random = Random.seeded(settings.seed, "calibration", self.device)
        twin = copy.copy(self)
        twin.net = twin.model = copy.deepcopy(self.net)
        twin.optimizer = experiment.optimizer.build(twin.net.parameters(), settings.lr, settings.weight_decay)
        view, n = Views(data, experiment.aug, random), len(data.labels)

        def update() -> None:
            twin.update(view(torch.randint(n, (settings.batch_size,), generator=random.device, device=self.device)))

        return machine.seconds_of(update, self.device)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr = self.optimizer.param_groups[0]["lr"]
