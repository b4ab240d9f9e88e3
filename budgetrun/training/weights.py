"""The weights that a run begins with, from a file: an earlier run's checkpoint, or the weights of any network."""

from __future__ import annotations

import logging
import pickle
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from budgetrun.contracts import UserError
from budgetrun.errors import one_line
from budgetrun.folder.reading import brief
from budgetrun.folder.run import why_not
from budgetrun.identity import one_path

log = logging.getLogger("budgetrun")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # entries of a file that may hold the weights, the first counts
PREFIXES = ("module.", "_orig_mod.")  # by torch's DataParallel and DistributedDataParallel, and by torch.compile


def heads(net: nn.Module) -> list[str]:
    """The names of the layers that give the logits: timm's classifiers, or the last linear layer; [] if none is known.

    The names of their weights begin with such a name and a dot.
    """
    if callable(classifiers := getattr(net, "get_classifier", None)):
        found = classifiers()
        layers = [*found] if isinstance(found, tuple | list | nn.ModuleList) else [found]
    else:
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1:]
    return [name for name, module in net.named_modules() if any(module is layer for layer in layers)]


def begin_with(pattern: str, net: nn.Module) -> dict[str, int]:
    """Load the weights of a file; returns the runs that led to it, each with its FLOPs: none if no run wrote it.

    A last layer for another number of classes begins anew, and nothing else does. net: on the meta device, the weights
    are not read, and only their shapes are checked. Raises UserError if it is not one file of weights, or if they do
    not fit.
    """
    path = one_path(pattern, "init_from")
    weights, runs = read(path, next(net.parameters()).device)
    own = net.state_dict()
    for prefix in PREFIXES * 2:  # in either order
        if all(name.startswith(prefix) for name in weights) and not all(name.startswith(prefix) for name in own):
            consume_prefix_in_state_dict_if_present(weights, prefix)
    anew = {head: of_other_classes(head, weights, own) for head in heads(net)}
    left = [name for names in anew.values() for name in names]
    for name in left:
        del weights[name]
    shapes = {name: (value.shape, own[name].shape) for name, value in weights.items() if name in own}
    unlike = {name: (theirs, ours) for name, (theirs, ours) in shapes.items() if theirs != ours}
    wrong = [f"{name} is {list(theirs)} and not {list(ours)}" for name, (theirs, ours) in unlike.items()]
    if len(unlike) == 1:
        ((theirs, ours),) = unlike.values()
        if len(theirs) == 4 and {theirs[1], ours[1]} == {1, 3}:  # the first kernel, of grey and of coloured images
            raise UserError(
                f"init_from: {path} has weights for images of {theirs[1]} channels, and these have {ours[1]} "
                f"({wrong[0]}); train on images of {theirs[1]} channels"
            )
    if not wrong:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")  # BatchNorm's counters
                missing, unexpected = net.load_state_dict(weights, strict=False)
            wrong = [f"{name} is missing" for name in missing if name not in left]
            wrong += [f"{name} is not in the model" for name in unexpected]
        except RuntimeError as error:  # by a module that reads its weights in a way of its own
            wrong = [brief(one_line(error))]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"init_from: {path} has the weights of another network ({', '.join(wrong[:3])}{more})")
    if left and not next(net.parameters()).is_meta:
        names = " and ".join(head for head, names in anew.items() if names)
        log.info("init_from: %s is for another number of classes, so the last layer, %s, begins anew", path, names)
    return runs


def of_other_classes(head: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """The weights of a last layer that differ from the file's in their first dimension, the classes, alone."""
    return [
        name
        for name in own.keys() & weights.keys()
        if name.startswith(f"{head}." if head else "")
        and own[name].shape[1:] == weights[name].shape[1:]
        and own[name].shape[:1] != weights[name].shape[:1]
    ]


def read(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The weights in a file, and the runs that led to it. No code in the file is run."""
    runs: dict[str, int] = {}
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a file")
        state = content(path, device)
        if not isinstance(state, dict):
            raise ValueError(f"it is a {type(state).__name__}")
        weights: Any = next((state[name] for name in WRAPPERS if isinstance(state.get(name), dict)), state)
        if isinstance(budget := state.get("budget"), dict):  # of a run
            runs = {**budget.get("before", {}), state.get("run", str(path)): budget["flops"]}
        for name, value in weights.items():
            if not (isinstance(name, str) and isinstance(value, Tensor)):
                entries = ", ".join(WRAPPERS)
                raise ValueError(f"its {brief(str(name))} is not a tensor, and it has no entry {entries} with tensors")
        if not weights:
            raise ValueError("it is empty")
    except UserError:
        raise
    except Exception as error:  # torch.load raises a dozen kinds, depending on where the file is damaged
        if isinstance(error, OSError | ValueError):
            why = why_not(error)
        else:
            why = brief(f"{type(error).__name__}: {one_line(error)}")
        raise UserError(f"init_from: {path} is not the checkpoint of a run, or a file of weights ({why})") from error
    return weights, runs


def content(path: Path, device: torch.device) -> Any:
    """What a file holds, with its tensors on the device."""
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(f"init_from: {path} needs safetensors: python -m pip install 'budgetrun[timm]'") from error
        return {name: tensor.to(device) for name, tensor in load_file(path).items()}
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if (found := re.search(r"(?:GLOBAL|global|class) ([\w.]+\.\w+)", str(error))) is None:
            raise
        raise ValueError(f"it also holds {brief(found[1])}, which is code; save its state_dict alone") from error
