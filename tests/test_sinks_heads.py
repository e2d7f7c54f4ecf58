"""Per-sequence statistics of heads under edits, against single prompts read one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.models.adapter import adapter_for
from lensprobe.sinks.heads import head_statistics
from lensprobe.tokens import Encoded

ROWS = [(3, 7, 9, 11, 2), (5,), (4, 4, 8), (6, 1, 2, 3, 4, 5, 6, 7)]


def read(model, rows=ROWS, **options):
    return head_statistics(adapter_for(model), [Encoded(row) for row in rows], **options)


def test_every_number_is_the_loop_over_single_prompts(decoder):
    got = read(decoder, keys=3)
    adapter = adapter_for(decoder)
    for index, ids in enumerate(ROWS):
        with torch.no_grad():
            logits, cache = decoder.run_with_cache(torch.tensor([ids]))
        for layer in range(adapter.n_layers):
            pattern = cache[adapter.hook_name("attn.pattern", layer)][0].double().numpy()
            residual = cache[adapter.hook_name("resid_post", layer)][0].double().numpy()
            for key in range(min(3, len(ids))):
                close(got.attention[index, layer, :, key], pattern[:, key:, key].mean(1))
                close(got.largest[index, layer, key], np.abs(residual[key]).max(), "residual")
                close(got.norm[index, layer, key], np.linalg.norm(residual[key]), "residual")
        assert np.isnan(got.attention[index, :, :, len(ids) :]).all()
        assert np.isnan(got.norm[index, :, len(ids) :]).all()
        logs = logits[0].log_softmax(-1)
        nats = [-float(logs[place, token].detach()) for place, token in enumerate(ids[1:])]
        assert got.count[index] == len(nats)
        close(got.loss[index], sum(nats) if nats else np.nan)


def test_edits_and_hooks_are_read_as_they_act(decoder):
    edit = lp.Scale(factor=3.0, layers=1, positions=lp.positions.front(1))
    point = adapter_for(decoder).hook_name("resid_post", 1)

    def tripled(x):
        out = x.clone()
        out[:, 0] *= 3.0
        return out

    plain, edited, hooked = (
        read(decoder),
        read(decoder, edits=edit),
        read(decoder, hooks={point: tripled}),
    )
    for name in ("attention", "largest", "norm", "loss"):
        close(getattr(edited, name), getattr(hooked, name), "residual")
    close(edited.largest[:, 1], 3 * plain.largest[:, 1], "residual")
    close(edited.attention[:, :2], plain.attention[:, :2])
    assert np.nanmax(np.abs(edited.loss - plain.loss)) > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 10])
def test_batches_change_nothing(decoder, batch_tokens):
    one, many = read(decoder, batch_tokens=batch_tokens), read(decoder)
    for name in ("attention", "largest", "loss"):
        close(getattr(one, name), getattr(many, name))
    rate = many.sink_rate(0.25)
    close(rate, (many.attention[..., 0] > 0.25).mean((1, 2)))
    assert rate[1] == 1.0
