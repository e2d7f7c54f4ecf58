"""A head's score as a sum: every sum is the model's own score, and each part is what it is called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe import sinks
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for

IDS = [0, 9, 17, 30, 41, 12, 9]


def scores_of(model, layer, head, ids=IDS):
    """The model's own scores and attention, masked ones as they are; float64 `[query key]`."""
    adapter = adapter_for(model)
    points = [adapter.hook_name("attn.pattern", layer), f"blocks.{layer}.attn.hook_attn_scores"]
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=lambda n: n in points)
    cap = getattr(model.cfg, "attn_scores_soft_cap", None)
    scores = cache[points[1]][0, head].double().numpy()
    scores = np.where(np.tri(len(ids), dtype=bool), scores, np.nan)
    if cap is not None and cap > 0:
        scores = cap * np.arctanh(scores / cap)
    return scores, cache[points[0]][0, head].double().numpy()


@pytest.mark.parametrize(("head", "position"), [((2, 3), 0), ((0, 1), 0), ((3, 0), 2)])
def test_every_sum_is_the_score(shaped, head, position):
    found = sinks.scores(shaped, IDS, head=head, position=position)
    scores, pattern = scores_of(shaped, *head)
    later = list(range(position + 1, len(IDS)))
    assert found.queries["query"].tolist() == later
    close(found.queries["value"], scores[later, position])
    close(found.queries["probability"], pattern[later, position])
    close(found.queries[["content", "turn", "remainder"]].sum(axis=1), found.queries["value"])
    others = [np.nanmean(np.delete(scores[row, : row + 1], position)) for row in later]
    close(found.queries["others"], others)
    assert np.abs(found.queries["remainder"]).max() < 1e-4
    bias = found.parts["key_part"].isin(["bias", "norm bias"])
    for column, whole in (("value", found.score), ("others", np.mean(others))):
        close(found.parts[column].sum(), whole)
        close(found.coordinates[column].sum(), whole)
        close(found.dims[column].sum() + found.parts.loc[bias, column].sum(), whole)
    assert len(found.dims) == shaped.cfg.d_model


def test_positions_turn_or_are_parts(tiny_gpt2, tiny_llama):
    absolute = sinks.scores(tiny_gpt2, IDS, head=(2, 1))
    assert (absolute.queries["turn"] == 0).all()
    assert {"bias", "norm bias", "token", "position"} <= set(absolute.parts["query_part"])
    rotary = sinks.scores(tiny_llama, IDS, head=(2, 1))
    assert np.abs(rotary.queries["turn"]).max() > 1e-3
    assert "position" not in set(rotary.parts["key_part"])
    # Below the first block there is nothing but tokens and positions.
    first = sinks.scores(tiny_gpt2, IDS, head=(0, 1))
    assert not {"attention", "mlp"} & set(first.parts["query_part"])


def test_the_token_part_of_the_first_layer_is_the_embedding_alone(tiny_gpt2):
    """Layer 0 of a model with absolute positions, from the weights."""
    found = sinks.scores(tiny_gpt2, IDS, head=(0, 2)).parts.set_index(["query_part", "key_part"])
    model, head = tiny_gpt2, 2
    tokens = model.W_E[torch.tensor(IDS)].detach().double()
    places = model.pos_embed.W_pos[: len(IDS)].detach().double()
    whole = tokens + places
    spread = (whole.var(-1, unbiased=False) + 1e-5).sqrt()[:, None]
    attention = model.blocks[0].attn
    norm = model.blocks[0].ln1
    gain = getattr(norm, "w", None) if hasattr(norm, "w") else norm.weight
    halves = {}
    for name, part in (("token", tokens), ("position", places)):
        normed = (part - part.mean(-1, keepdim=True)) / spread * gain.detach().double()
        halves[name] = {
            side: (normed @ getattr(attention, f"W_{side}")[head].detach().double()).numpy()
            for side in "QK"
        }
    for query, of_query in halves.items():
        for key, of_key in halves.items():
            expected = (of_query["Q"][1:] @ of_key["K"][0]).mean() / np.sqrt(model.cfg.d_head)
            close(found.loc[(query, key), "value"], expected)


def test_without_a_head_the_one_that_attends_most_is_taken(tiny_llama):
    found = sinks.scores(tiny_llama, IDS)
    means = {
        (layer, head): scores_of(tiny_llama, layer, head)[1][:, 0].mean()
        for layer in range(4)
        for head in range(4)
    }
    best = max(means, key=lambda place: means[place])
    assert (found.provenance["layer"], found.provenance["head"]) == best
    assert found.summary()["head"] == f"L{best[0]}H{best[1]}"
    assert "attends most" in found.provenance["notes"][0]


def test_the_planted_sinks_are_the_massive_dimension(planted):
    from lensprobe.models.planted import PLANTED

    sink = max(PLANTED.sink_heads, key=lambda each: each.strength)
    found = sinks.scores(planted, "The cat sat on the mat.", head=(sink.layer, sink.head))
    lift = found.dims["value"] - found.dims["others"]
    massive = found.dims["kind"] == "massive"
    assert massive.any()
    whole = found.score - found.queries["others"].mean()
    assert found.summary()["massive"] == pytest.approx(lift[massive].sum())
    assert abs(lift[massive].sum() - whole) < 0.05 * abs(whole) + 1e-3


def test_a_users_hook_is_seen_and_not_called_again(tiny_llama):
    calls = []
    point = tiny_llama.hook_dict["blocks.1.hook_resid_post"]
    with tiny_llama.hooks(fwd_hooks=[(point.name, lambda x, hook: calls.append(len(x)))]):
        inside = sinks.scores(tiny_llama, IDS, head=(1, 1))
    assert calls == [1]
    plain = sinks.scores(tiny_llama, IDS, head=(1, 1))
    close(inside.queries["value"], plain.queries["value"])


def test_it_is_saved_and_cited(tiny_gpt2, tmp_path):
    found = sinks.scores(tiny_gpt2, IDS, head=(-1, 0))
    again = lp.open(found.save(tmp_path / "scores.zip"))
    close(again.parts["value"], found.parts["value"])
    assert again.summary() == found.summary()
    assert "elhage2021mathematical" in again.cite()
    assert again.provenance["layer"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": (9, 0)}, "head=9"),
        ({"head": (0, 4)}, "heads 0 to 3"),
        ({"head": 3}, r"head=3: a layer and a head"),
        ({"position": 6}, "from 0 to 5"),
        ({"position": -1}, "position=-1"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_bad_options_are_refused(tiny_gpt2, options, message):
    with pytest.raises(ArgumentError, match=message):
        sinks.scores(tiny_gpt2, IDS, **options)


@pytest.mark.parametrize("prompt", [["one two", "three"], [5], "the cat " * 400])
def test_one_text_with_two_tokens_at_least(tiny_gpt2, prompt):
    with pytest.raises(ArgumentError, match="prompt"):
        sinks.scores(tiny_gpt2, prompt)
