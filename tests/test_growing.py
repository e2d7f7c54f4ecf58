"""Keys and values that grow in place are those that transformers joins anew at every step."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from lensprobe.models.growing import growing_cache

SHAPE = (2, 3, 4)
STEPS = st.lists(st.integers(-4, 5).filter(bool), min_size=1, max_size=8)


def new(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    rows, heads, width = SHAPE
    shape = (2, rows, heads, tokens, width)
    keys, values = torch.randn(shape, generator=random)
    return keys, values


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([0, 3, 40]))
def test_any_steps_and_crops(steps, expected):
    joined, grown = DynamicCache(), growing_cache(expected)
    with torch.no_grad():
        for number, step in enumerate(steps):
            held = joined.get_seq_length()
            if step < 0:
                drop = min(-step, held)
                if drop:
                    joined.crop(-drop)
                    grown.crop(-drop)
            else:
                one = joined.update(*new(step, number), 0)
                other = grown.update(*new(step, number), 0)
                assert all(map(torch.equal, one, other))
            assert grown.get_seq_length() == joined.get_seq_length()


@torch.no_grad()
def test_what_was_handed_out_stays():
    cache, kept = growing_cache(), []
    for number in range(12):
        keys, _ = cache.update(*new(1 + number % 3, number), 0)
        kept.append((keys, keys.clone()))
    assert all(torch.equal(keys, copy) for keys, copy in kept)


@torch.no_grad()
def test_room_for_what_is_expected_is_made_once():
    cache, places = growing_cache(20), []
    for number in range(20):
        keys, _ = cache.update(*new(1, number), 0)
        places.append(keys.data_ptr())
    assert len(set(places[1:])) == 1
    assert cache.update(*new(5, 1), 0)[0].shape[2] == 25


@torch.no_grad()
def test_a_batch_that_was_reordered_goes_on():
    joined, grown = DynamicCache(), growing_cache()
    for cache in (joined, grown):
        cache.update(*new(3, 0), 0)
        cache.update(*new(2, 1), 0)
        cache.batch_select_indices(torch.tensor([1]))
        cache.batch_repeat_interleave(2)
    one, other = (cache.update(*new(1, 2), 0) for cache in (joined, grown))
    assert all(map(torch.equal, one, other))


def test_a_backward_pass_finds_what_it_saved():
    cache, total = growing_cache(), torch.zeros(())
    weight = torch.ones(SHAPE[-1], requires_grad=True)
    for number in range(3):
        keys, values = (part * weight for part in new(2, number))
        keys, values = cache.update(keys, values, 0)
        total = total + (keys * values).sum()
    total.backward()
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())
