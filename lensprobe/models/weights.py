"""The weights that write to the residual stream, by the same names on every model class.

TransformerLens's own names hold on both classes (`attn.W_O` `[head d_head d_model]`, `mlp.W_out`
`[d_mlp d_model]`), whatever the transformers model stores (`Conv1D`, transposed linear maps, fused
matrices). What is added here: norms with their true gain (Gemma stores it minus one), blocks that
norm or scale what they add, learned positions, and refusing weights that cannot be read as numbers.

Nothing here writes to a weight.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ModelError
from .adapter import Adapter
from .lora import has_adapter_layers, packed

__all__ = ["Norm", "Projection", "Weights", "weights_of"]

NormName = Literal["ln1", "ln1_post", "ln2", "ln2_post", "ln_final"]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm (`centred`) or RMS norm: `gain * (x - mean) / spread + bias`.

    Attributes:
        gain: `[d_model]`, what is multiplied; ones where it is folded into the next weights.
        bias: `[d_model]`, or None.
        eps: added to the mean square.
        centred: whether the mean is subtracted first.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    def scale(self, whole: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """One over what this pass divides by: with it held fixed the norm is linear."""
        if self.centred:
            whole = whole - whole.mean(-1, keepdim=True)
        return (whole.square().mean(-1) + self.eps).rsqrt()

    def __call__(self, whole: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The normed vectors, in their own dtype."""
        scale = self.scale(whole)[..., None]
        if self.centred:
            whole = whole - whole.mean(-1, keepdim=True)
        normed = whole * scale * self.gain.to(whole)
        return normed if self.bias is None else normed + self.bias.to(whole)


@dataclass(frozen=True)
class Projection:
    """What an attention layer or an MLP adds to the residual stream, as a map of its inputs.

    `norm(inputs @ matrix + bias) * multiplier`: inputs are the heads' `attn.z` side by side, or the
    neurons' `mlp.post`.

    Attributes:
        matrix: `[inputs d_model]`, a view of the model's own tensor where that is possible.
        bias: `[d_model]`, or None where the model has none.
        norm: the norm after it, before the sum (Gemma 2, OLMo 2), or None.
        multiplier: a constant of the architecture (Granite), 1 elsewhere.
    """

    matrix: Float[Tensor, "inputs d_model"]
    bias: Float[Tensor, " d_model"] | None
    norm: Norm | None
    multiplier: float = 1.0

    def before(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch d_model"]:
        """`inputs @ matrix + bias`, before the norm, in the dtype of the inputs."""
        whole = inputs @ self.matrix.to(inputs)
        return whole if self.bias is None else whole + self.bias.to(inputs)

    def after(self, whole: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What `before` becomes on its way into the stream."""
        return (whole if self.norm is None else self.norm(whole)) * self.multiplier

    def scale(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        """What each part of the sum is multiplied by in this pass, besides `column`; 1 without norm."""
        if self.norm is None:
            return inputs.new_full(inputs.shape[:-1], self.multiplier)
        return self.norm.scale(self.before(inputs)) * self.multiplier

    def column(self, dim: int) -> Float[Tensor, " inputs"]:
        """Weight of each input into one dimension of the stream, float64.

        `inputs * column * scale` are the inputs' contributions. With a norm its gain is in here, and
        where it is centred the mean over dimensions is off.
        """
        return self._through(self.matrix, dim)

    def constant(self, dim: int) -> float:
        """The bias into one dimension, to be multiplied by `scale`; 0 without one."""
        return 0.0 if self.bias is None else float(self._through(self.bias, dim))

    def offset(self, dim: int) -> float:
        """What the norm's own bias adds to one dimension, whatever the inputs."""
        if self.norm is None or self.norm.bias is None:
            return 0.0
        return float(self.norm.bias[dim]) * self.multiplier

    def _through(self, part: Tensor, dim: int) -> Tensor:
        chosen = part[..., dim].detach().double()
        if self.norm is None:
            return chosen
        if self.norm.centred:
            chosen = chosen - part.detach().double().mean(-1)
        return chosen * self.norm.gain[dim].double()


class Weights:
    """Weights of one model that lie at the residual stream. Get one from `weights_of(adapter)`."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def attention(self, layer: int) -> Projection:
        """`W_O` of all heads, `[head * d_head, d_model]`: head h has rows `h * d_head` and on.

        Raises:
            ModelError: the layer has no attention of that form.
        """
        matrix = self._tensor("attn", "W_O", layer)
        if matrix is None:
            raise ModelError(f"layer {layer} has no attention with an output matrix.")
        bias = self._tensor("attn", "b_O", layer)
        return self._projection(matrix.flatten(0, 1), bias, layer, "ln1_post")

    @torch.no_grad()
    def output_norms(self, layer: int) -> Float[Tensor, "head width d_head"]:
        """R of each head's `W_O`: `R v` has the norm of `v · W_O`, at `d_head` numbers a token.

        Raises:
            ModelError: the layer has no attention of that form.
        """
        by_head = self.attention(layer).matrix.detach().float()
        by_head = by_head.reshape(self.adapter.n_heads, self.adapter.d_head, -1)
        return torch.linalg.qr(by_head.transpose(1, 2), mode="r").R

    def reads(
        self, layer: int, part: Literal["Q", "K"], head: int
    ) -> tuple[Float[Tensor, "d_model d_head"], Float[Tensor, " d_head"] | None]:
        """What one head's queries or keys are of the normed stream: `W_Q` and `b_Q`, or the key's.

        With grouped queries a head's keys are those of its group.

        Raises:
            ModelError: the layer has no attention of that form.
        """
        matrix, bias = (self._tensor("attn", f"{kind}_{part}", layer) for kind in ("W", "b"))
        if matrix is None:
            raise ModelError(
                f"layer {layer} has no attention with a matrix W_{part} for each head."
            )
        index = head // (self.adapter.n_heads // len(matrix))
        return matrix[index], None if bias is None else bias[
            head // (self.adapter.n_heads // len(bias))
        ]

    def mlp(self, layer: int) -> Projection:
        """`W_out`, `[d_mlp d_model]`: row n is what neuron n writes.

        Raises:
            ModelError: the layer has no MLP, or one without a single output matrix (experts).
        """
        matrix = self._tensor("mlp", "W_out", layer)
        if matrix is None:
            raise ModelError(
                f"layer {layer} has no MLP with one output matrix "
                "(a mixture of experts, or attention only)."
            )
        return self._projection(matrix, self._tensor("mlp", "b_out", layer), layer, "ln2_post")

    def has_neurons(self, layer: int) -> bool:
        """Whether `mlp(layer)` can be had."""
        return self._tensor("mlp", "W_out", layer) is not None

    def norm(self, name: NormName, layer: int = 0) -> Norm | None:
        """A norm of a block, or `"ln_final"`; None where the model has none of that name."""
        model = self.adapter.model
        home = model if name == "ln_final" else model.blocks[self.adapter.layer(layer)]
        module = getattr(home, name, None)
        if module is None or type(module).__name__ == "Identity":
            return None
        return _bridge_norm(module) if self.adapter.line == "bridge" else _hooked_norm(module)

    @property
    def embedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """One row a token, as stored: some models scale or norm it before the first block."""
        return self.adapter.model.W_E

    @property
    def positions(self) -> Float[Tensor, "n_ctx d_model"] | None:
        """One row a position, added to the embedding; None where the model has no such rows."""
        model = self.adapter.model
        if str(getattr(model.cfg, "positional_embedding_type", "")) != "standard":
            return None
        home = getattr(model, "pos_embed", None)
        table = getattr(home, "original_component", None)
        if table is not None:
            # OPT's table begins with two rows that no position uses.
            return table.weight[int(getattr(table, "offset", 0)) :]
        return getattr(home, "W_pos", None)

    def _projection(
        self, matrix: Tensor, bias: Tensor | None, layer: int, norm: NormName
    ) -> Projection:
        wrapped = getattr(self.adapter.model, "original_model", None)
        multiplier = getattr(getattr(wrapped, "config", None), "residual_multiplier", None)
        return Projection(matrix, bias, self.norm(norm, layer), float(multiplier or 1.0))

    def _tensor(self, part: str, name: str, layer: int) -> Tensor | None:
        module = getattr(self.adapter.model.blocks[self.adapter.layer(layer)], part, None)
        try:
            found = getattr(module, name, None)
        except NotImplementedError:
            return None
        return found if isinstance(found, Tensor) else None


def weights_of(adapter: Adapter) -> Weights:
    """Access to the weights of an adapter's model.

    Raises:
        ModelError: packed (4- or 8-bit) weights, or LoRA layers that are not merged: what is stored
            is not what is used. An encoder-decoder.
    """
    adapter.require_decoder("reading weights")
    if packed(adapter.model):
        raise ModelError(
            "the weights are packed (4- or 8-bit) and cannot be read as numbers; "
            "load the model unpacked."
        )
    # A bridge lists only the modules it knows; what PEFT put in sits in the wrapped model.
    if has_adapter_layers(getattr(adapter.model, "original_model", adapter.model)):
        raise ModelError(
            "the model has LoRA layers that are not merged, so that its stored weights are not the "
            "ones it uses; load it with lp.load(model, adapter=...)."
        )
    return Weights(adapter)


@torch.no_grad()
def _bridge_norm(module: Any) -> Norm:
    """Gain and kind of a transformers norm, told by what it does: classes store them differently."""
    # A copy without hook points, in float32: nobody's hooks see the question.
    norm = copy.deepcopy(module.original_component).cpu().float()
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    eps = float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0)))
    equal = torch.ones(len(weight) if weight is not None else int(module.config.d_model))
    # Of equal numbers nothing is left once their mean is off; alternating ones have no mean.
    alternating = equal.clone()
    alternating[1::2] = -1.0
    offset = torch.zeros_like(equal) if bias is None else bias
    plain, turned = norm(equal) - offset, (norm(alternating) - offset) * alternating
    centred = bool(plain.abs().max() < 1e-3 * turned.abs().max())
    gain = (1 + eps) ** 0.5 * plain
    if centred:
        gain = torch.ones_like(equal) if weight is None else weight.detach()
    device = next((p.device for p in module.parameters()), None)
    return Norm(gain.to(device), None if bias is None else bias.to(device), eps, centred)


def _hooked_norm(module: Any) -> Norm:
    gain = getattr(module, "w", None)
    if gain is None:
        gain = torch.ones(int(module.cfg.d_model), device=module.cfg.device)
    bias = getattr(module, "b", None)
    return Norm(
        gain.detach(),
        None if bias is None else bias.detach(),
        float(module.eps),
        "RMS" not in type(module).__name__,
    )
