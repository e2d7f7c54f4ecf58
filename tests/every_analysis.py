"""Every analysis as one small call, for whoever wants to try them all on a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import lensprobe as lp
from lensprobe.steering import SteeringVector

__all__ = ["TEXTS", "calls"]


TEXTS = ("Hello world, this is the cat", "one two three four five")


def calls(model: Any, given: Sequence[str] = TEXTS) -> dict[str, Callable[[], object]]:
    """The name of each analysis, as `lp.check` has it, and a call of it that is over quickly."""
    texts = list(given)
    ones = SteeringVector(torch.ones(model.cfg.d_model), 0)
    few = {"max_new_tokens": 2}
    return {
        "lp.forward": lambda: lp.forward(model, texts),
        "lp.score": lambda: lp.score(model, texts),
        "lp.generate": lambda: lp.generate(model, texts, max_new_tokens=1),
        "lp.editing": lambda: lp.editing(model, []),
        "lp.attention": lambda: lp.attention(model, texts[0]),
        "lp.chat": lambda: lp.chat(model, [{"role": "user", "content": "hi"}]),
        "lp.interpolation.generate": lambda: lp.interpolation.generate(
            model, texts, layer=1, weight=0.5, **few
        ),
        "lp.interpolation.learn": lambda: lp.interpolation.learn(model, texts, steps=1),
        "lp.interpolation.loss": lambda: lp.interpolation.loss(
            model, texts, layer=1, weight=0.5
        ).detach(),
        "lp.interpolation.score": lambda: lp.interpolation.score(model, texts, layer=1, weight=0.5),
        "lp.interpolation.surprise": lambda: lp.interpolation.surprise(
            model, texts, layer=1, weight=0.5, lags=1
        ),
        "lp.interpolation.sweep": lambda: lp.interpolation.sweep(
            model, texts, layers=[1], weights=[0.5]
        ),
        "lp.interpolation.trace": lambda: lp.interpolation.trace(
            model, texts[0], layer=1, weight=0.5
        ),
        "lp.massive.ablate": lambda: lp.massive.ablate(model, texts, dim=1),
        "lp.massive.anatomy": lambda: lp.massive.anatomy(model, texts, dim=1),
        "lp.massive.bos_pull": lambda: lp.massive.bos_pull(model, texts, dim=1),
        "lp.massive.gradient": lambda: lp.massive.gradient(model, texts, dim=1),
        "lp.massive.rescale": lambda: lp.massive.rescale(model, texts, dim=1, factors=[2]),
        "lp.massive.scan": lambda: lp.massive.scan(model, texts, progress=False),
        "lp.massive.train_and_watch": lambda: lp.massive.train_and_watch(
            model, texts, dim=1, steps=1, batch_size=1, length=4, progress=False
        ),
        "lp.massive.tokens": lambda: lp.massive.tokens(model, texts, dim=1, n=3, progress=False),
        "lp.massive.trajectory": lambda: lp.massive.trajectory(model, texts, dim=1),
        "lp.sinks.brittle": lambda: lp.sinks.brittle(model, texts, kinds=["text", "repeat"]),
        "lp.sinks.cause": lambda: lp.sinks.cause(model, texts, dim=1),
        "lp.sinks.clusters": lambda: lp.sinks.clusters(model, 5, n=4, repeats=2, progress=False),
        "lp.sinks.dedicate": lambda: lp.sinks.dedicate(model, texts),
        "lp.sinks.evict": lambda: lp.sinks.evict(model, texts, keep=[0, 1], window=3),
        "lp.sinks.first_token_detector": lambda: lp.sinks.first_token_detector(
            model, texts, n=2, lengths=[2]
        ),
        "lp.sinks.neurons": lambda: lp.sinks.neurons(model, texts, n=1, progress=False),
        "lp.sinks.patch": lambda: lp.sinks.patch(
            model, [5, 6, 7], [5, 5, 5], layers=1, progress=False
        ),
        "lp.sinks.repeats": lambda: lp.sinks.repeats(model, 5, lengths=[2], progress=False),
        "lp.sinks.scan": lambda: lp.sinks.scan(model, texts, progress=False),
        "lp.sinks.scores": lambda: lp.sinks.scores(model, texts[0]),
        "lp.sinks.values": lambda: lp.sinks.values(model, texts, progress=False),
        "lp.steering.calibrate": lambda: lp.steering.calibrate(model, ones, target=0.01, **few),
        "lp.steering.compare_depth": lambda: lp.steering.compare_depth(model, texts, ones, **few),
        "lp.steering.compare_persistence": lambda: lp.steering.compare_persistence(
            model, texts, ones, **few
        ),
        "lp.steering.compare_positions": lambda: lp.steering.compare_positions(
            model, texts, ones, **few
        ),
        "lp.steering.compare_sites": lambda: lp.steering.compare_sites(
            model, texts, mixing="the cat", scales=[1.0], layers=1, **few
        ),
        "lp.steering.compare_stacks": lambda: lp.steering.compare_stacks(
            model, texts, mixing="the cat", scales=[1.0], layers=1, **few
        ),
        "lp.steering.contrast": lambda: lp.steering.contrast(model, " the cat", " the dog"),
        "lp.steering.difference": lambda: lp.steering.difference(model, texts, texts[:1]),
        "lp.steering.mixing": lambda: lp.steering.mixing(model, texts[0]),
        "lp.steering.stability": lambda: lp.steering.stability(
            model, texts * 2, [*texts[::-1], *texts], n=[1], repeats=2
        ),
        "lp.steering.sweep": lambda: lp.steering.sweep(model, texts, vector=ones, layers=0),
        "lp.report": lambda: lp.report(model, texts, progress=False),
    }
