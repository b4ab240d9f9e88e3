"""The layers of a network, in the order in which images pass them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Layer:
    """A module with parameters of its own. parameters: their names. modules: of it and of those that come next without
    parameters, such as ReLU."""

    parameters: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


def in_order(net: nn.Module, shape: torch.Size) -> list[Layer]:
    """The layers of a network on the meta device, in the order in which an image [C, H, W] first enters them.

    A module that is only read, as the output projection of torch's attention is, counts as the one that reads it.
    """
    passed: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: passed.append(name))
        for name, module in net.named_modules()
    ]
    with torch.no_grad():
        net(torch.empty(2, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    of_module: dict[str, list[str]] = {name: [] for name in passed}  # in order
    for parameter, _ in net.named_parameters():
        owner = parameter.rpartition(".")[0]
        while owner not in of_module:
            owner = owner.rpartition(".")[0]
        of_module[owner].append(parameter)
    layers = [Layer()]
    for name, parameters in of_module.items():
        if parameters and layers[-1].parameters:
            layers.append(Layer())
        layers[-1].parameters += parameters
        layers[-1].modules.append(name)
    return layers
