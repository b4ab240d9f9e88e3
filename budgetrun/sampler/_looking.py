"""How a sampler looks: in which mode, and at images of which size."""

from __future__ import annotations


def check_looks(scale: float, mode: str = "eval") -> None:
    """Raise ValueError unless the values `looks_scale` and `looks` of a sampler are possible."""
    if mode not in ("eval", "train"):
        raise ValueError(f"looks={mode} is not one of eval, train")
    if not 0 < scale <= 1:
        raise ValueError(f"looks_scale={scale} must be in (0, 1]: the size of the images in looks; 1 is their own")
