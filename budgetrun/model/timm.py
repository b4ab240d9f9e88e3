"""The models of timm (PyTorch Image Models)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from budgetrun.contracts import UserError
from budgetrun.errors import one_line

OURS = ("num_classes", "in_chans", "img_size", "pretrained", "checkpoint_path", "features_only")  # that `build` decides


@dataclass
class Timm:
    """A model of timm, by its name, not pretrained; `init_from` loads weights from a file.

    Source: Wightman 2019. It needs `pip install 'budgetrun[timm]'`. Which version of timm is there is in the result,
    and does not count in a run's id.
    name: as in `timm.list_models()`. Models of a fixed image size, such as vision transformers, are built for the size
    of the images. args: further arguments of `timm.create_model`, as in `{patch_size: 4, drop_path_rate: 0.1}`.
    """

    name: str
    args: dict[str, Any] | None

    def __post_init__(self) -> None:
        timm = timm_or_why()
        if ours := [name for name in self.args or {} if name in OURS]:
            raise ValueError(f"args has {ours[0]}, which budgetrun decides; leave it out")
        plain, _, tag = self.name.partition(".")
        if not timm.is_model(plain):
            close = difflib.get_close_matches(plain, timm.list_models(), n=3)
            meant = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(f"name={self.name} is not a model of timm; {meant}timm.list_models() lists them")
        if tag:
            raise ValueError(
                f"name={self.name} is {plain} with published weights, which are not downloaded; set name={plain}, and "
                "init_from to a file of them"
            )

    def build(self, channels: int, classes: int, image_size: int) -> nn.Module:
        timm = timm_or_why()
        about = timm.get_pretrained_cfg(self.name, allow_unregistered=True)
        size = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
        try:
            net: Any = timm.create_model(self.name, num_classes=classes, in_chans=channels, **size, **(self.args or {}))
        except TypeError as error:  # an argument that the model does not have
            raise UserError(f"model.args={self.args} does not fit {self.name} ({one_line(error)})") from error
        for layer in net.modules():
            if not isinstance(layer, timm.layers.PatchEmbed) or layer.dynamic_img_pad:
                continue
            if any(image_size % side for side in layer.patch_size):  # timm would leave the rest of the image out
                raise UserError(
                    f"model.name={self.name} cuts images into patches of {layer.patch_size[0]} pixels per side, which "
                    f"do not divide {image_size}; set image_size, or model.args={{patch_size: ...}}"
                )
        return net


def timm_or_why() -> Any:
    """The timm module; raises UserError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError("model=timm needs timm: python -m pip install 'budgetrun[timm]'") from error
    return timm
