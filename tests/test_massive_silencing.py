"""Silencing through hooks equals editing the weights, and leaves the user's tensors alone."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerance import close

from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.models.weights import weights_of
from lensprobe.running import hooked
from lensprobe.running.silencing import silence_neurons, silence_weights

IDS = torch.tensor([[0, 5, 300, 7, 41, 41, 9], [1, 2, 3, 4, 5, 6, 7]])
NEURONS = [(1, 3), (1, 50), (3, 0)]
ENTRIES = [(1, 3, 7), (1, 50, 7), (1, 3, 40), (3, 0, 47)]


@torch.no_grad()
def run(model, hooks=None):
    adapter = adapter_for(model)
    with hooked(adapter, hooks or {}):
        return adapter.run(IDS, stop=adapter.n_layers)


def edited(model, change):
    """A copy whose weights were really edited, the slow and plain way."""
    other = copy.deepcopy(model)
    # The copy is another model; the adapter of this one must not be taken for its own.
    matrices = weights_of(adapter_for(other))
    with torch.no_grad():
        for layer in range(4):
            change(layer, matrices.mlp(layer).matrix)
    return other


def test_silencing_neurons_is_zeroing_their_rows(shaped):
    def change(layer, matrix):
        matrix[[n for at, n in NEURONS if at == layer]] = 0.0

    hooks = silence_neurons(weights_of(adapter_for(shaped)), NEURONS)
    close(run(shaped, hooks), run(edited(shaped, change)), "residual")
    assert not torch.equal(run(shaped, hooks), run(shaped))


def test_silencing_weights_is_zeroing_them(shaped):
    def change(layer, matrix):
        for at, neuron, dim in ENTRIES:
            if at == layer:
                matrix[neuron, dim] = 0.0

    hooks = silence_weights(weights_of(adapter_for(shaped)), [*ENTRIES, ENTRIES[0]])
    close(run(shaped, hooks), run(edited(shaped, change)), "residual")
    assert not torch.equal(run(shaped, hooks), run(shaped))


def test_the_users_tensors_are_not_touched(shaped):
    before = {name: p.clone() for name, p in shaped.named_parameters()}
    versions = {name: p._version for name, p in shaped.named_parameters()}
    plain = run(shaped)
    run(shaped, silence_weights(weights_of(adapter_for(shaped)), ENTRIES))
    for name, p in shaped.named_parameters():
        assert torch.equal(p, before[name])
        assert p._version == versions[name]
    assert torch.equal(run(shaped), plain)


def test_gradients_flow_around_what_is_silent(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    hooks = silence_weights(weights_of(adapter), ENTRIES)
    start = torch.randn(1, 5, 48, requires_grad=True)
    with hooked(adapter, hooks):
        out = adapter.run(start, start=1, stop=4)
    assert out is not None
    (slope,) = torch.autograd.grad(out.square().sum(), start)
    assert bool(slope.abs().sum() > 0)


def test_the_planted_writers_are_what_writes(planted):
    weights = weights_of(adapter_for(planted))
    adapter = adapter_for(planted)
    ids = torch.tensor([[PLANTED.bos_token, 72, 105]])

    @torch.no_grad()
    def value(hooks):
        with hooked(adapter, hooks):
            return adapter.run(ids, stop=2)[0, 0, list(PLANTED.dims)].tolist()

    writers = [(w.layer, w.neuron) for w in PLANTED.writers]
    close(value({}), PLANTED.values, "residual")
    close(value(silence_neurons(weights, writers)), [0.0, 0.0])
    one = PLANTED.writers[0]
    entry = (one.layer, one.neuron, PLANTED.dims[0])
    left = PLANTED.values[0] - one.contribution[0]
    close(value(silence_weights(weights, [entry])), [left, PLANTED.values[1]], "residual")


@pytest.mark.parametrize(
    ("call", "entries", "message"),
    [
        (silence_neurons, [(9, 0)], "layer=9"),
        (silence_neurons, [(0, 500)], "neuron=500: layer 0 has neurons 0 to 191"),
        (silence_neurons, [(0, 1), (0, -1)], "neuron=-1"),
        (silence_weights, [(0, 1, 48)], "dim=48: .* 0 to 47"),
    ],
)
def test_what_is_out_of_range_is_refused(tiny_gpt2, call, entries, message):
    with pytest.raises(ArgumentError, match=message):
        call(weights_of(adapter_for(tiny_gpt2)), entries)


def test_experts_have_no_neurons_to_silence(tiny_gpt2, monkeypatch):
    weights = weights_of(adapter_for(tiny_gpt2))
    monkeypatch.setattr(weights, "_tensor", lambda *_: None)
    with pytest.raises(ModelError, match="no MLP with one output matrix"):
        silence_neurons(weights, [(0, 1)])
