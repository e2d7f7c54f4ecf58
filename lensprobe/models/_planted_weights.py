"""The planted model's weights, one hand-set entry at a time.

Everything not set here is zero. Residual dimensions are shared out by `Layout`; every feature is
carried by a balanced pair (+x, -x) or by a zero-mean code, so that the mean LayerNorm subtracts is
zero, and every code has the same norm, so that what it divides by is a constant. LayerNorm's own
weights multiply that constant back: on an ordinary residual each norm is the identity.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensprobe.models._planted_design import Planted, SinkHead

__all__ = ["Layout", "Weights", "planted_weights"]

Weights = dict[str, Float[np.ndarray, "..."]]
"""A state dict under the names of transformers' GPT-2, float32."""


@dataclass(frozen=True)
class Layout:
    """Which residual dimension carries what (arrays of dimension numbers, in order)."""

    tokens: np.ndarray
    """512 dimensions of ±1: row `token + 1` of the Walsh-Hadamard matrix."""
    first: np.ndarray
    """(+1, -1) at position 0 and (-1, +1) everywhere else."""
    ground: np.ndarray
    """One dimension that stays 0: subtracting it cancels the mean at position 0."""
    path: np.ndarray
    """The pair the sink heads write to and the unembedding reads."""
    scratch: np.ndarray
    """9 pairs: where ordinary heads copy a token's number to."""
    clocks: np.ndarray
    """31 times (cos, sin, -cos, -sin) of the position."""

    @classmethod
    def of(cls, design: Planted) -> Layout:
        """Share out the dimensions left beside the planted two, in ascending order."""
        free = np.setdiff1d(np.arange(design.d_model), design.dims)
        sizes = np.cumsum([512, 2, 1, 2, 18, 4 * design.clocks])
        return cls(*np.split(free, sizes)[:-1])


def walsh() -> Float[np.ndarray, "row column"]:
    """The Walsh-Hadamard matrix: orthogonal rows of ±1, all but row 0 of mean zero."""
    return functools.reduce(np.kron, [np.array([[1.0, 1.0], [1.0, -1.0]])] * 9)


def clock_speeds(design: Planted) -> Float[np.ndarray, " clock"]:
    """Angles per position: a quadratic chirp, so that no two positions look alike."""
    golden = (np.sqrt(5.0) - 1) / 2
    return np.pi * (np.arange(1, design.clocks + 1) ** 2 * golden % 1)


def planted_weights(design: Planted) -> Weights:
    """Every tensor of the model, float32, the same bits on every call."""
    layout = Layout.of(design)
    weights = _blank(design)
    _embed(weights, design, layout)
    for layer in range(design.n_layers):
        for head in range(design.n_heads):
            _Head(weights, design, layout, layer, head).plant()
    _write(weights, design, layout)
    _erase(weights, design, layout)
    _unembed(weights, design, layout)
    return {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}


def norm_weight(design: Planted) -> float:
    """LayerNorm weight that undoes its division on an ordinary residual."""
    return float(design.spread(0.0, 0.0))


def seen(design: Planted) -> tuple[float, float]:
    """The two planted values as the heads and the eraser see them: after the norm, at factor 1."""
    scale = norm_weight(design) / design.spread(*design.values)
    return design.values[0] * scale, design.values[1] * scale


def _blank(design: Planted) -> Weights:
    d = design.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "mlp.c_fc.weight": (d, design.d_mlp),
        "mlp.c_fc.bias": (design.d_mlp,),
        "mlp.c_proj.weight": (design.d_mlp, d),
        "mlp.c_proj.bias": (d,),
    }
    weights = {
        "transformer.wte.weight": np.zeros((design.d_vocab, d)),
        "transformer.wpe.weight": np.zeros((design.n_ctx, d)),
        "lm_head.weight": np.zeros((design.d_vocab, d)),
    }
    blocks = [f"transformer.h.{layer}" for layer in range(design.n_layers)]
    weights |= {f"{b}.{name}": np.zeros(shape) for b in blocks for name, shape in shapes.items()}
    for norm in ["transformer.ln_f", *(f"{b}.ln_{i}" for b in blocks for i in (1, 2))]:
        weights[f"{norm}.weight"] = np.full(d, norm_weight(design))
        weights[f"{norm}.bias"] = np.zeros(d)
    return weights


def _embed(weights: Weights, design: Planted, layout: Layout) -> None:
    # Row 0 of the Walsh matrix is all ones, the only one whose mean is not zero: it is left out.
    weights["transformer.wte.weight"][:, layout.tokens] = walsh()[1 : design.d_vocab + 1]
    positions = weights["transformer.wpe.weight"]
    positions[:, layout.first] = (-1.0, 1.0)
    positions[design.position, layout.first] = (1.0, -1.0)
    angles = np.outer(np.arange(design.n_ctx), clock_speeds(design))
    clocks = np.stack([np.cos(angles), np.sin(angles), -np.cos(angles), -np.sin(angles)], axis=-1)
    positions[:, layout.clocks] = clocks.reshape(design.n_ctx, -1)


def _unembed(weights: Weights, design: Planted, layout: Layout) -> None:
    # Walsh rows are orthogonal, so this reads row t of the bigram table off token t exactly.
    codes = walsh()[1 : design.d_vocab + 1]
    weights["lm_head.weight"][:, layout.tokens] = design.bigrams.T @ codes / 512
    opened = design.path_weight * len(design.sink_heads)
    gain = np.log(design.d_vocab + 1) / (2 * opened)
    weights["lm_head.weight"][design.mumble_token, layout.path] = (gain, -gain)


def _write(weights: Weights, design: Planted, layout: Layout) -> None:
    block = f"transformer.h.{design.writer_layer}.mlp"
    for unit in design.writers:
        # The pair reads +2 at position 0 and -2 elsewhere: GELU passes one whole, the other not.
        half = unit.activation / 2
        weights[f"{block}.c_fc.weight"][layout.first, unit.neuron] = (half, -half)
        weights[f"{block}.c_proj.weight"][unit.neuron, list(design.dims)] = unit.weights


def _erase(weights: Weights, design: Planted, layout: Layout) -> None:
    block = f"transformer.h.{design.eraser_layer}.mlp"
    first, *steps = design.erasers
    plan = [(first, 0, first.activation)]
    # Two neurons, one delayed, make a step: their difference is fixed once the value is seen,
    # so that zeroing 447 (which makes 138 larger after the norm) removes 138 all the same.
    plan += [(unit, 1, steps[0].activation) for unit in steps]
    for unit, which, slope in plan:
        gain = slope / seen(design)[which]
        weights[f"{block}.c_fc.weight"][design.dims[which], unit.neuron] = gain
        weights[f"{block}.c_fc.weight"][layout.ground, unit.neuron] = -gain
        weights[f"{block}.c_fc.bias"][unit.neuron] = unit.activation - slope
        weights[f"{block}.c_proj.weight"][unit.neuron, list(design.dims)] = unit.weights


@dataclass(frozen=True)
class _Head:
    """One attention head's slices of the fused weights."""

    weights: Weights
    design: Planted
    layout: Layout
    layer: int
    head: int

    def plant(self) -> None:
        """Set the weights of whatever kind of head this is."""
        kind = self.design.kind(self.layer, self.head)
        if kind in ("sink", "twin"):
            self._attend_to_value()
        elif kind != "uniform":
            self._attend_to_clock(offset=-1 if kind == "previous" else 0)
        if kind == "sink":
            self._open_path()
        else:
            self._copy()

    def _channel(self, part: int, channel: int) -> int:
        """Column of the fused matrix; `part` 0 is the query, 1 the key, 2 the value."""
        return part * self.design.d_model + self.head * self.design.d_head + channel

    def _read(self, part: int, channel: int, plus: int, minus: int, gain: float) -> None:
        """Add `gain · (x[plus] - x[minus])` to a channel; the difference ignores the mean."""
        column = self.weights[f"transformer.h.{self.layer}.attn.c_attn.weight"]
        column[plus, self._channel(part, channel)] += gain
        column[minus, self._channel(part, channel)] -= gain

    def _emit(self, channel: int, pair: np.ndarray, gain: float) -> None:
        """Write a value channel to a balanced pair of residual dimensions."""
        rows = self.weights[f"transformer.h.{self.layer}.attn.c_proj.weight"]
        rows[self.head * self.design.d_head + channel, pair] = (gain, -gain)

    def _bias(self, part: int, channel: int, value: float) -> None:
        biases = self.weights[f"transformer.h.{self.layer}.attn.c_attn.bias"]
        biases[self._channel(part, channel)] = value

    def _attend_to_value(self) -> None:
        """A constant query, and a key that is the planted value: `strength` at factor 1."""
        strength = _strength(self.design, self.layer, self.head)
        self._bias(0, 0, np.sqrt(self.design.d_head))
        gain = strength / seen(self.design)[0]
        self._read(1, 0, self.design.dims[0], int(self.layout.ground[0]), gain)

    def _open_path(self) -> None:
        """A value of 1 at every position, which the planted value cancels at its own."""
        self._bias(2, 0, 1.0)
        gain = -1 / seen(self.design)[0]
        self._read(2, 0, self.design.dims[0], int(self.layout.ground[0]), gain)
        self._emit(0, self.layout.path, self.design.path_weight)

    def _attend_to_clock(self, offset: int) -> None:
        """Compare the clocks, the query's turned by `offset` positions."""
        root = np.sqrt(self.design.sharpness * np.sqrt(self.design.d_head)) / 2
        for n, speed in enumerate(clock_speeds(self.design)):
            cos, sin, minus_cos, minus_sin = (int(d) for d in self.layout.clocks[4 * n : 4 * n + 4])
            c, s = root * np.cos(speed * offset), root * np.sin(speed * offset)
            self._read(0, 2 * n, cos, minus_cos, c)
            self._read(0, 2 * n, sin, minus_sin, -s)
            self._read(0, 2 * n + 1, cos, minus_cos, s)
            self._read(0, 2 * n + 1, sin, minus_sin, c)
            self._read(1, 2 * n, cos, minus_cos, root)
            self._read(1, 2 * n + 1, sin, minus_sin, root)

    def _copy(self) -> None:
        """Copy the nine binary digits of the attended token's number, as signs."""
        column = self.weights[f"transformer.h.{self.layer}.attn.c_attn.weight"]
        for bit in range(9):
            column[self.layout.tokens[1 << bit], self._channel(2, bit)] = 1.0
            pair = self.layout.scratch[2 * bit : 2 * bit + 2]
            self._emit(bit, pair, self.design.copy_weight)


def _strength(design: Planted, layer: int, head: int) -> float:
    heads: tuple[SinkHead, ...] = design.sink_heads + design.twin_heads
    return next(h.strength for h in heads if (h.layer, h.head) == (layer, head))
