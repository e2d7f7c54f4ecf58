"""`HookedMLP`: a fully connected network with a hook point after every layer."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from ..errors import ArgumentError, ModelError
from ..models.adapter import register
from ..results import writing
from ..settings import checked_seed
from .adapter import MLPAdapter

__all__ = ["HookedMLP", "MLPConfig"]

FORMAT = "lensprobe.mnist.HookedMLP"


@dataclass(frozen=True)
class MLPConfig:
    """What a `HookedMLP` was made with."""

    widths: tuple[int, ...]
    residual: bool
    seed: int
    model_name: str


class _Layer(nn.Module):
    """One layer and the hook point behind it."""

    kind = ""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hook_out = HookPoint()


class _Linear(_Layer):
    kind = "linear"

    def __init__(self, before: int, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(before, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_out(self.linear(x))


class _ReLU(_Layer):
    kind = "ReLU"

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_out(torch.relu(x))


class _Block(_Layer):
    """`x + ReLU(W x + b)`. What goes around the branch makes it one layer, not two."""

    kind = "residual block"

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(width, width)
        self.hook_pre = HookPoint()
        self.hook_branch = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_out(x + self.hook_branch(torch.relu(self.hook_pre(self.linear(x)))))


class HookedMLP(HookedRootModule):
    """Linear layers with ReLUs between them, `[batch pixels]` → logits `[batch classes]`.

    A layer is whatever lies between two points that everything passes through. In 784-512-512-10
    they are 0 the first linear map, 1 its ReLU, 2 the second linear map, 3 its ReLU, 4 the output. With
    `residual`, a hidden linear map between equal widths and its ReLU are one layer `x + ReLU(W x + b)`.

    Hook points: `hook_input` (the pixels), `layers.{layer}.hook_out`, and inside a residual block
    `layers.{layer}.hook_pre` and `hook_branch`. To lensprobe's edits an image is a text of one token:
    `site="resid_post"` is behind a layer, `"resid_pre"` before it, so that of layer 0 the pixels.

    Args:
        widths: pixels, hidden widths, classes.
        residual: see above.
        seed: of the initial weights (torch's own initialisation of linear layers).
        name: what results call the network.

    Raises:
        ArgumentError: fewer than two widths, or one that is no positive whole number.

    Examples:
        >>> lp.mnist.HookedMLP((4, 3, 2)).kinds
        ('linear', 'ReLU', 'linear')
    """

    def __init__(
        self,
        widths: Sequence[int] = (784, 512, 512, 10),
        *,
        residual: bool = False,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        sizes = _checked_widths(widths)
        seed = checked_seed(seed) or 0
        label = name or "-".join(map(str, sizes)) + (" residual" if residual else "")
        self.cfg = MLPConfig(sizes, bool(residual), seed, label)
        self.hook_input = HookPoint()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(_layers(sizes, residual))
        self.setup()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each layer is: "linear", "ReLU" or "residual block"."""
        return tuple(str(layer.kind) for layer in self.layers)

    def forward(self, images: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch classes"]:
        """Logits; images may also be `[batch height width]`.

        Raises:
            ArgumentError: images of another size.
        """
        x = images.flatten(1)
        if x.shape[1] != self.cfg.widths[0]:
            raise ArgumentError(
                f"images: {x.shape[1]} pixels each; this network reads {self.cfg.widths[0]}."
            )
        x = self.hook_input(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write weights and shape as safetensors, for `HookedMLP.load`.

        Raises:
            OutputError: the file exists (and `overwrite` is false) or cannot be written.
        """
        facts = {"format": FORMAT, "config": json.dumps(vars(self.cfg))}
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        with writing(path, overwrite=overwrite) as handle:
            handle.write(serialized(weights, facts))
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HookedMLP:
        """Read what `save` wrote.

        Raises:
            ModelError: no such file, or not a saved `HookedMLP`.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                facts = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"path={str(path)!r} cannot be read as safetensors ({error})."
            ) from error
        if facts.get("format") != FORMAT:
            raise ModelError(f"path={str(path)!r} is not a saved HookedMLP.")
        config: dict[str, Any] = json.loads(facts["config"])
        model = cls(
            config["widths"],
            residual=config["residual"],
            seed=config["seed"],
            name=config["model_name"],
        )
        model.to(next(iter(weights.values())).dtype)
        model.load_state_dict(weights)
        return model


register(HookedMLP, MLPAdapter)


def _checked_widths(widths: Any) -> tuple[int, ...]:
    sizes = tuple(widths) if isinstance(widths, Sequence) else ()
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
    if len(sizes) < 2 or len(whole) < len(sizes) or min(whole) < 1:
        raise ArgumentError(f"widths={widths!r}: pixels, hidden widths and classes, all positive.")
    return sizes


def _layers(widths: tuple[int, ...], residual: bool) -> list[_Layer]:
    layers: list[_Layer] = []
    last = len(widths) - 2
    for index, (before, width) in enumerate(pairwise(widths)):
        if residual and before == width and 0 < index < last:
            layers.append(_Block(width))
            continue
        layers.append(_Linear(before, width))
        layers += [_ReLU(width)] if index < last else []
    return layers
