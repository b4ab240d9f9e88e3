"""Every way to ask a network about examples before training on them. Each charges the budget: nobody looks for free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from budgetrun.contracts import Batch, ClosedForm, Loss, UserError
from budgetrun.training.budget import Budget

Forward = Callable[[Callable[[Tensor], Any], Tensor], Tensor]  # float32 logits [B, classes] of images in pixel values


class Looks:
    """Passes of the trained model that are no updates.

    net: the model; compiled: the same or its compiled form. part: images a pass, a batch's size: what stays in a CPU's
    cache, and the shape that is compiled.
    """

    def __init__(
        self, net: nn.Module, compiled: nn.Module, forward: Forward, loss: Loss, budget: Budget, part: int
    ) -> None:
        self.net, self.compiled, self.forward, self.loss, self.budget, self.part = (
            net, compiled, forward, loss, budget, part,
        )  # fmt: skip

    @torch.no_grad()
    def look(self, batch: Batch, training: bool = False) -> tuple[Tensor, Tensor]:
        """Losses [B] and logits [B, classes]; see Context."""
        self.compiled.train(training)
        logits = torch.cat([self.forward(self.compiled, part) for part in batch.images.split(self.part)])
        self.compiled.train()
        self.budget.charge_look(len(batch))
        return self.loss(logits, batch), logits

    @torch.no_grad()
    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The input [B, D] of the last linear layer and the logits [B, classes]; see Context."""
        linear = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError("the model has no linear layer, and this method needs the input of the last one")
        inputs: list[Tensor] = []
        hook = linear[-1].register_forward_pre_hook(lambda layer, given: inputs.append(given[0].float()))
        self.net.eval()  # not the compiled form, in which hooks are not called
        try:
            logits = torch.cat([self.forward(self.net, part) for part in batch.images.split(self.part)])
        finally:
            hook.remove()
            self.net.train()
        self.budget.charge_look(len(batch))
        return torch.cat(inputs), logits

    def logit_gradients(self, logits: Tensor, batch: Batch) -> Tensor:
        """d loss_i / d logits_i, [B, classes]; see Context. No pass of the model, so nothing is charged."""
        # in closed form 0.02 ms for 64 images of 10 classes on a CPU core, and 0.15 ms by torch
        if isinstance(self.loss, ClosedForm):
            return self.loss.logit_gradients(logits, batch)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            return torch.autograd.grad(self.loss(leaf, batch).sum(), leaf)[0]

    def gradient_norms(self, batch: Batch) -> Tensor:
        """||d loss_i / d parameters||_2, [B], in float32; see Context."""
        parameters = {name: parameter.detach() for name, parameter in self.net.named_parameters()}

        def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor, share: Tensor) -> Tensor:
            logits = torch.func.functional_call(self.net, parameters, (image[None],))
            return self.loss(logits, Batch(image[None], label[None], label[None], share[None], drawn=label[:1]))[0]

        def norm(image: Tensor, label: Tensor, share: Tensor) -> Tensor:
            gradients = torch.func.grad(loss)(parameters, image, label, share)
            return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

        def norms(images: Tensor) -> Tensor:
            # 32 images at a time: each has gradients of all parameters in memory. vmap has no BatchNorm in bf16
            with torch.autocast(images.device.type, enabled=False):
                return torch.func.vmap(norm, chunk_size=32)(images, batch.label, batch.share)

        self.net.eval()
        result = self.forward(norms, batch.images)  # which normalizes: vmap cannot lay out images as that does
        self.net.train()
        self.budget.charge_look(len(batch))
        self.budget.flops += len(batch) * (self.budget.flops_update - self.budget.flops_forward)
        return result


class SecondNetwork:
    """A network beside the trained one, see SecondModel; its passes are charged by its own FLOPs.

    lr(): the learning rate of the moment. flops: of one image's forward pass, and of its forward and backward pass.
    part: as in Looks.
    """

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, lr: Callable[[], float], forward: Forward, loss: Loss,
        budget: Budget, flops: tuple[int, int], part: int,
    ) -> None:  # fmt: skip
        self.net, self.optimizer, self.lr, self.forward, self.loss = net, optimizer, lr, forward, loss
        self.budget, self.flops, self.part = budget, flops, part

    @torch.no_grad()
    def look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.net.eval()
        logits = torch.cat([self.forward(self.net, part) for part in batch.images.split(self.part)])
        self.net.train()
        self.budget.examples_looked += len(batch)
        self.budget.flops += len(batch) * self.flops[0]
        return self.loss(logits, batch), logits

    def learn(self, batch: Batch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr()
        losses = self.loss(self.forward(self.net, batch.images), batch)
        self.optimizer.zero_grad()
        batch.mean(losses).backward()
        self.optimizer.step()
        self.budget.flops += len(batch) * self.flops[1]

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
