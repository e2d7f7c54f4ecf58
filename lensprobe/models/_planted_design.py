"""What is planted, as data, and the answers that follow from it, as closed forms.

Nothing here reads the weights: the weights are built from this page (`_planted_weights`), and the
closed forms are derived from it on paper (`docs/planted.md`). Both meet only in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lensprobe.errors import ArgumentError
from lensprobe.models._planted_bigrams import bigram_logits

__all__ = ["PLANTED", "HeadKind", "Planted", "PlantedNeuron", "SinkHead"]

HeadKind = Literal["sink", "twin", "uniform", "previous", "self"]


@dataclass(frozen=True)
class PlantedNeuron:
    """One neuron of the writer or the eraser, at position 0 and factor 1.

    `activation` is the value after the GELU; `weights` are the entries of its output row in the
    planted dimensions, in the order of `Planted.dims`.
    """

    layer: int
    neuron: int
    activation: float
    weights: tuple[float, float]

    @property
    def contribution(self) -> tuple[float, float]:
        """What the neuron adds to each planted dimension: activation times weight."""
        return self.activation * self.weights[0], self.activation * self.weights[1]


@dataclass(frozen=True)
class SinkHead:
    """A head that reads the planted value; `strength` is its score for key 0 at factor 1."""

    layer: int
    head: int
    strength: float


@dataclass(frozen=True)
class Planted:
    """The known answers of the planted model. `PLANTED` is the one instance.

    Layers, heads, neurons, dimensions and positions count from 0. A *factor* multiplies dimension
    `dims[0]` (447) of the residual stream at position 0 once, anywhere between the writer
    (`blocks.1.hook_resid_post`) and the first sink (`blocks.2.hook_resid_pre`); every other
    coordinate stays. Losses are in nats.
    """

    version: int = 1
    n_layers: int = 6
    n_heads: int = 12
    d_head: int = 64
    d_model: int = 768
    d_mlp: int = 128
    n_ctx: int = 1024
    d_vocab: int = 258
    eps: float = 1e-5

    bos_token: int = 256
    pad_token: int = 257
    mumble_token: int = ord("~")
    """The token that grows likely when the sink heads are stopped; it is in no ordinary text."""

    position: int = 0
    dims: tuple[int, int] = (447, 138)
    values: tuple[float, float] = (3000.0, 800.0)
    median: float = 1.0
    """Median magnitude of the residual stream in every layer: exactly 1."""
    norm: float = 24.0
    """Euclidean norm of the residual at every other position (and at 0 without the values)."""

    writer_layer: int = 1
    writers: tuple[PlantedNeuron, ...] = (
        PlantedNeuron(1, 11, 80.0, (25.0, 0.0)),
        PlantedNeuron(1, 42, 60.0, (15.0, 10.0)),
        PlantedNeuron(1, 97, 20.0, (5.0, 10.0)),
    )
    eraser_layer: int = 4
    erasers: tuple[PlantedNeuron, ...] = (
        PlantedNeuron(4, 23, 300.0, (-10.0, 0.0)),
        PlantedNeuron(4, 64, 100.0, (0.0, -40.0)),
        PlantedNeuron(4, 101, 80.0, (0.0, 40.0)),
    )

    sink_heads: tuple[SinkHead, ...] = (
        SinkHead(2, 1, 12.0),
        SinkHead(2, 5, 9.0),
        SinkHead(2, 10, 8.0),
        SinkHead(3, 1, 11.5),
        SinkHead(3, 2, 10.0),
        SinkHead(3, 7, 8.5),
        SinkHead(4, 0, 9.5),
        SinkHead(4, 4, 11.0),
        SinkHead(4, 9, 10.5),
    )
    twin_heads: tuple[SinkHead, ...] = (SinkHead(0, 1, 12.0), SinkHead(5, 1, 12.0))
    """Queries and keys of sink head (2, 1), in layers where the value is not there to be read."""

    path_weight: float = 2.0**-8
    """What one open sink head writes: too faint for a norm to notice, unembedded with a gain."""
    copy_weight: float = 2.0**-13
    """What an ordinary head writes of a token's number: fainter still, and read by nothing."""
    clocks: int = 31
    """Angles that tell the position; at the speeds chosen no two positions look alike."""
    sharpness: float = 1.5
    """Score a clock adds to the attended position; the runner-up is 28 nats below all of them."""

    @property
    def plateau_layers(self) -> tuple[int, ...]:
        """Layers whose attention reads the planted values: after the writer, up to the eraser."""
        return tuple(range(self.writer_layer + 1, self.eraser_layer + 1))

    @property
    def residual_hooks(self) -> tuple[str, ...]:
        """TransformerLens hook points of the residual stream where the values stand, in order."""
        plateau = [
            f"blocks.{layer}.hook_resid_{site}"
            for layer in self.plateau_layers
            for site in ("pre", "mid", "post")
        ]
        # Behind the eraser's block the values are gone.
        return (f"blocks.{self.writer_layer}.hook_resid_post", *plateau[:-1])

    @property
    def bigrams(self) -> Float[np.ndarray, "current next"]:
        """Logits of the next token after each current one, at factor 1 and without the path."""
        return bigram_logits(self.d_vocab, self.mumble_token)

    def kind(self, layer: int, head: int) -> HeadKind:
        """What a head attends to: sinks and their twins as listed, the rest by `head % 3`."""
        for name, heads in (("sink", self.sink_heads), ("twin", self.twin_heads)):
            if any((h.layer, h.head) == (layer, head) for h in heads):
                return "sink" if name == "sink" else "twin"
        ordinary: tuple[HeadKind, ...] = ("uniform", "previous", "self")
        return ordinary[head % 3]

    # The methods below take complex factors too, which is how `loss_slope` differentiates them.

    def spread(self, first: Any, second: Any) -> Any:
        """Standard deviation LayerNorm divides by, with `first`, `second` in the two dimensions."""
        mean = (first + second) / self.d_model
        square = (first**2 + second**2 + self.norm**2) / self.d_model
        return np.sqrt(square - mean**2 + self.eps)

    def share(self, factor: Any) -> Any:
        """g(factor): dimension 447 after the norm, relative to factor 1. g(0) = 0, g(1) = 1."""
        first, second = self.values
        return factor * self.spread(first, second) / self.spread(factor * first, second)

    def leftover(self, factor: Any) -> Any:
        """What the eraser leaves in dimension 447 at position 0: 3000 · (factor - g(factor)).

        The eraser's neuron is silent below zero, so a negative factor is left as it is.
        """
        erased = self.share(factor) if np.real(factor) > 0 else 0.0
        return self.values[0] * (factor - erased)

    def attention(self, strength: float, factor: Any, length: int) -> Any:
        """Attention of each query to position 0 in a sink head: e^a / (e^a + t), `[length]`.

        `a = strength · g(factor)`, because every other key scores exactly 0.
        """
        weight = np.exp(strength * self.share(factor))
        return weight / (weight + np.arange(length))

    def mean_attention(self, strength: float, factor: float, length: int) -> float:
        """Mean attention to position 0 over the queries 0 … length - 1 (the α of sink rates)."""
        return float(np.mean(self.attention(strength, factor, length)))

    def uniform_attention(self, length: int) -> float:
        """The same mean for a head without scores: the harmonic number of `length` / `length`."""
        return float(np.mean(1 / np.arange(1, length + 1)))

    def path(self, factor: Any, length: int) -> Any:
        """Logit the sink heads' path adds to `mumble_token` at each position, `[length]`.

        ln(V + 1) times the mean over sink heads of 1 - attention · g: closed at factor 1 where
        attention is 1, fully open at factor 0.
        """
        share = self.share(factor)
        read = [self.attention(h.strength, factor, length) * share for h in self.sink_heads]
        return np.log(self.d_vocab + 1) * (1 - sum(read) / len(read))

    def losses(self, tokens: Int[np.ndarray, " pos"], factor: Any = 1.0) -> Any:
        """Loss of predicting each next token, `[pos - 1]` nats, at the given factor.

        At position 0 the leftover stands in the final norm, which shrinks the logits there.
        Raises `ArgumentError` when there is nothing to predict.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or not 2 <= len(tokens) <= self.n_ctx:
            raise ArgumentError(
                f"tokens has shape {tokens.shape}; allowed: one sequence of 2 to {self.n_ctx} ids."
            )
        logits = self.bigrams[tokens[:-1]] + 0 * factor
        logits[:, self.mumble_token] += self.path(factor, len(tokens) - 1)
        logits[0] *= self.spread(0.0, 0.0) / self.spread(self.leftover(factor), 0.0)
        target = np.take_along_axis(logits, tokens[1:, None], axis=1)[:, 0]
        return np.log(np.exp(logits).sum(axis=1)) - target

    def loss(self, tokens: Int[np.ndarray, " pos"], factor: float = 1.0) -> float:
        """Mean loss over the predictions of one sequence, in nats a token."""
        return float(np.mean(self.losses(tokens, factor)))

    def loss_slope(self, tokens: Int[np.ndarray, " pos"], factor: float = 1.0) -> float:
        """Derivative of `loss` by ln(factor): the value at dimension 447 times the gradient there.

        The loss is analytic in the factor, so a complex step gives its derivative to rounding.
        """
        step = 1e-30
        turned = factor * complex(1.0, step)
        return float(np.imag(np.mean(self.losses(tokens, turned))) / step)


PLANTED = Planted()
