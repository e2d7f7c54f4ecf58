"""Where a model makes its sink: the layer whose MLP writes the massive activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..running.session import hooked

__all__ = ["FOOLED", "Onset", "onset_of"]

FOOLED = 0.5
"""Share of a first token's massive value from which a token counts as treated like a first one."""
NEARLY = 0.9
"""Share of the largest MLP output from which a layer may be where it begins."""
SAMPLE = 16
"""Single tokens whose mean stands for a first token where there is no BOS."""


@dataclass(frozen=True)
class Onset:
    """The sink layer of Yona et al. (2503.08908), and what a first token looks like behind it.

    Attributes:
        layer: the first layer whose MLP output on a first token alone has a norm above the mean over
            layers plus two standard deviations.
        value: largest magnitude of that token's residual after the layer.
        dim: which coordinate that is.
        note: how the layer was found, for a result's provenance.
    """

    layer: int
    value: float
    dim: int
    note: str

    def facts(self) -> dict[str, float | int]:
        """For a result's provenance."""
        return {"sink_layer": self.layer, "dim": self.dim, "reference": self.value}


@torch.no_grad()
def onset_of(adapter: Adapter, layer: int | None = None) -> Onset:
    """Find the sink layer from first tokens alone: BOS, or several tokens where there is none.

    Where no layer passes the rule (an eraser as strong as the writer makes the spread large), it is
    the first whose MLP output has nine tenths of the largest norm.

    Args:
        adapter: the model's.
        layer: take this one.

    Raises:
        ArgumentError: a layer out of range.
    """
    given = None if layer is None else adapter.layer(layer)
    ids = _first_tokens(adapter)
    outputs: dict[int, Tensor] = {}
    residuals: dict[int, Tensor] = {}
    hooks = {}
    for n in range(adapter.n_layers):
        hooks[adapter.hook_name("mlp_out", n)] = lambda x, n=n: outputs.__setitem__(n, x)
        hooks[adapter.hook_name("resid_post", n)] = lambda x, n=n: residuals.__setitem__(n, x)
    with hooked(adapter, hooks):
        # Hooks of the user's own may sit on later points, and must see the pass.
        adapter.run(ids, stop=None if adapter.user_hooks() else adapter.n_layers)
    norms = np.array([float(outputs[n].float().norm(dim=-1).mean()) for n in sorted(outputs)])
    if given is None:
        given, note = _first_above(norms)
    else:
        note = f"layer {given} was named as the sink layer"
    mean = residuals[given][:, 0].float().abs().mean(0)
    dim = int(mean.argmax())
    value = float(residuals[given][:, 0].float().abs().amax(-1).mean())
    if not np.isfinite(value) or value == 0:
        raise ArgumentError(f"layer={given}: a first token's residual there is {value}.")
    return Onset(given, value, dim, note)


def _first_tokens(adapter: Adapter) -> Tensor:
    """`[tokens 1]`."""
    token = getattr(getattr(adapter.model, "tokenizer", None), "bos_token_id", None)
    if token is not None:
        return torch.tensor([[int(token)]], device=adapter.device)
    spread = np.linspace(0, adapter.d_vocab - 1, min(SAMPLE, adapter.d_vocab)).astype(int)
    return torch.from_numpy(spread[:, None]).to(adapter.device)


def _first_above(norms: np.ndarray) -> tuple[int, str]:
    above = np.flatnonzero(norms > norms.mean() + 2 * norms.std())
    if len(above):
        layer = int(above[0])
        return layer, (
            f"layer {layer} is the first whose MLP output on a first token alone exceeds the mean "
            "over layers plus two standard deviations"
        )
    layer = int(np.flatnonzero(norms >= NEARLY * norms.max())[0])
    return layer, (
        f"no layer's MLP output on a first token alone exceeds the mean plus two standard "
        f"deviations; layer {layer} is the first to reach {NEARLY:.0%} of the largest"
    )
