"""Losses and divergences read off in pieces are those of all logits at once."""

from __future__ import annotations

import pytest
import torch
from tolerance import close

from lensprobe.models.adapter import adapter_for
from lensprobe.running import measures, readout
from lensprobe.running.measures import kl, log_probs, losses
from lensprobe.running.readout import compared_runs, unembedded


@pytest.fixture
def ends(decoder):
    adapter = adapter_for(decoder)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 300, (1, 11), generator=random)
    with torch.no_grad():
        plain = adapter.run(ids, stop=adapter.n_layers)[0]
    return plain, torch.stack([plain * 0.5, plain, plain + 1.0]), ids[0]


@pytest.mark.parametrize("tokens", [1, 4, 128])
def test_pieces_are_the_whole(decoder, ends, tokens, monkeypatch):
    adapter, (plain, runs, targets) = adapter_for(decoder), ends
    monkeypatch.setattr(readout, "TOKENS", tokens)
    monkeypatch.setattr(measures, "PIECE", 3)
    base = unembedded(adapter, plain)
    logits = torch.stack([unembedded(adapter, run) for run in runs])
    for given, are in ((runs, False), (logits, True)):
        loss, gap = compared_runs(adapter, given, targets, log_probs(base), logits=are)
        close(loss, losses(logits, targets.expand(3, -1)).sum(1))
        close(gap, kl(logits, base.expand_as(logits)).sum(1))


def test_no_tokens_are_no_loss(decoder, ends):
    adapter, (plain, runs, targets) = adapter_for(decoder), ends
    loss, gap = compared_runs(
        adapter, runs[:, :0], targets[:0], log_probs(unembedded(adapter, plain))[:0]
    )
    assert loss.tolist() == gap.tolist() == [0, 0, 0]
