"""Under the user's own hooks: strengths are taken one by one, and the answers stay what they were."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

import lensprobe as lp
from lensprobe.models.adapter import adapter_for
from lensprobe.running.fanning import WHOLE
from lensprobe.steering import SteeringVector

PROMPTS = ["Hello world, this is", "I think that"]
OPTIONS = {"max_new_tokens": 4, "progress": False}


@contextmanager
def watching(model):
    """A hook of the user's that notes how many rows each pass has."""
    rows = []
    point = model.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: rows.append(value.shape[0]))
    try:
        yield rows
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


def vector_for(model):
    values = np.random.default_rng(3).standard_normal(adapter_for(model).d_model)
    return SteeringVector(values, 1)


def calibrate(model):
    return lp.steering.calibrate(model, vector_for(model), target=0.2, prompt=PROMPTS, **OPTIONS)


def depth(model):
    return lp.steering.compare_depth(model, PROMPTS, vector_for(model), scale=1.0, **OPTIONS)


def sites(model):
    given = {"mixing": ["the fox", " dog"], "scales": [0.5, 1.0, 2.0], "layers": [1]}
    return lp.steering.compare_sites(model, PROMPTS, **given, **OPTIONS)


def stacks(model):
    given = {"mixing": ["the fox", " dog"], "scales": [0.5, 1.0, 2.0], "layers": [1]}
    return lp.steering.compare_stacks(model, PROMPTS, **given, **OPTIONS)


@pytest.mark.parametrize("call", [calibrate, depth, sites, stacks], ids=lambda call: call.__name__)
def test_a_pass_has_each_prompt_once_and_the_numbers_stay(decoder, call):
    plain = call(decoder)
    with watching(decoder) as rows:
        found = call(decoder)
    # Reading the completions of every condition is an ordinary batch of that many texts.
    assert rows and max(rows) <= (len(PROMPTS) if call is not depth else 5 * len(PROMPTS))
    for table in plain.tables:
        one, two = plain.to_frame(table), found.to_frame(table)
        numbers = one.select_dtypes("number").columns
        for name in numbers:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-4, err_msg=name)
        assert one.drop(columns=numbers).equals(two.drop(columns=numbers))


@pytest.mark.parametrize("call", [sites, stacks], ids=lambda call: call.__name__)
def test_the_result_says_so(tiny_gpt2, call):
    with watching(tiny_gpt2):
        assert WHOLE in call(tiny_gpt2).provenance["notes"]
