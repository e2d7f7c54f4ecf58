"""One vocabulary: every public call is `f(model, data, *, options)`, options from one table.

A name outside the table, a positional option or an option without a default fails here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import pytest
from typing_extensions import get_overloads

import lensprobe as lp

SUBJECTS = {
    "model", "texts", "prompt", "name", "messages", "edits", "path",
    # a steering vector is made from two sides and then is itself what a call is about
    "positive", "negative", "text", "vector", "values",
    # what is compared
    "results", "models", "analysis",
    # checkpoints that are yet to be loaded, and a model that is yet to be trained
    "sources", "config",
    # single words, and the two runs between which activations are patched
    "words", "word", "clean", "corrupt",
    # images, and where they are from
    "data", "source",
    # results that are set beside each other
    "study", "sweep",
}  # fmt: skip
OPTIONS = {
    # text and BOS
    "prompt", "column", "limit", "bos", "side",
    # depth and place
    "layer", "layers", "site", "positions", "position", "keys", "dim", "head", "neuron", "at",
    # strength
    "scale", "scales", "factor", "factors", "weight", "weights", "amount",
    # contrast and steering vectors
    "positive", "negative", "vector", "read", "method", "pad", "n", "target", "measure", "mixing",
    "stack", "reference", "percentile", "repeats", "malformed", "carried",
    # interpolation: what is blended in, how long it is, where, and beside what
    "norm", "keep_first", "below", "extrapolate", "where", "plain", "lags",
    # sampling
    "max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed", "logprobs",
    "stop_at_eos", "cache",
    # running
    "batch_tokens", "progress", "out", "dry_run", "length", "chunk", "on_error",
    # who else reads, and which share
    "workers", "engine", "part",
    # what is kept
    "edits", "logits",
    # how much of a cache stays: the first keys, and all of them
    "keep", "window",
    # what is repeated, where a call takes texts too
    "words",
    # what a decomposition confirms by taking it away
    "ablate",
    # files and loading
    "overwrite", "tokenizer", "device", "dtype", "revision", "device_map", "adapter", "copy",
    # training: the optimizer, what is done to it, what is watched and when
    "optimizer", "runs", "steps", "learning_rate", "weight_decay", "warmup", "interventions",
    "watch", "every", "account", "held_out", "seeds", "batch_size", "checkpoints", "save_every",
    # repeated tokens: how often, and which activations are patched
    "lengths", "sites", "kinds",
    # the same analysis again and again
    "analysis", "table",
    # images of digits
    "pairs", "images", "epochs", "group",
    # made-up texts that are read beside the given ones
    "conditions",
    # thresholds, named as in the papers
    "threshold", "ratio", "epsilon",
    # further results on the page of a report
    "more",
    # pictures
    "theme", "width_mm", "title", "js",
}  # fmt: skip


def public_calls() -> Iterator[tuple[str, object]]:
    for name in lp.__all__:
        value = getattr(lp, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.ismodule(value) and name != "positions":
            for inner in value.__all__:
                if inspect.isfunction(getattr(value, inner)):
                    yield f"{name}.{inner}", getattr(value, inner)


CALLS = dict(public_calls())


def test_there_are_calls_to_look_at():
    assert {"forward", "generate", "score", "load", "massive.scan", "sinks.scan"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_public_call_speaks_the_vocabulary(name):
    parameters = list(inspect.signature(CALLS[name]).parameters.values())
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert parameter.name in OPTIONS, f"{name}: {parameter.name} is not in the table"
            assert parameter.default is not inspect.Parameter.empty, f"{parameter.name}: no default"
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert parameter.name in SUBJECTS, f"{name}: {parameter.name} is a positional option"


@pytest.mark.parametrize("name", CALLS)
def test_every_public_call_is_documented_and_annotated(name):
    call = CALLS[name]
    assert (inspect.getdoc(call) or "").strip()
    for parameter in inspect.signature(call).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def test_no_name_is_both_a_function_and_a_module():
    import pkgutil

    modules = {info.name for info in pkgutil.iter_modules(lp.__path__)}
    functions = {name for name in lp.__all__ if inspect.isfunction(getattr(lp, name))}
    assert not modules & functions


@pytest.mark.parametrize("scan", [lp.massive.scan, lp.sinks.scan], ids=["massive", "sinks"])
def test_the_kinds_of_a_scans_answer_share_its_options(scan):
    module = sys.modules[scan.__module__]
    told = {name: hint.__forward_arg__ for name, hint in module._Options.__annotations__.items()}
    taken = inspect.signature(scan).parameters.values()
    choosing = {"model", "texts", "part", "dry_run"}
    assert told == {each.name: each.annotation for each in taken if each.name not in choosing}
    result = inspect.signature(scan).return_annotation.split(" | ")[0]
    kinds = [inspect.signature(each).return_annotation for each in get_overloads(scan)]
    assert kinds == [result, "Plan", "None", f"{result} | Plan | None"]
