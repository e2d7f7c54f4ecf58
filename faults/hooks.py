"""Exceptions in the middle of an analysis."""

from __future__ import annotations

import inspect
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import every_analysis
import torch
from tiny_models import build_hooked, write_gpt2_folder, write_llama_folder
from torch.nn.modules.module import register_module_forward_pre_hook
from transformer_lens.hook_points import HookPoint

import lensprobe as lp
from lensprobe.shards.identity import weights_fingerprint

from . import Fault

__all__ = ["FAULTS"]

ERRORS: tuple[type[BaseException], ...] = (
    RuntimeError, ValueError, KeyError, OSError, MemoryError, StopIteration, AssertionError,
    KeyboardInterrupt, SystemExit,
)  # fmt: skip
LIBRARY = str(Path(lp.__file__).parent)
CLEANING = {"remove", "uninterrupted", "__exit__", "close"}
"""No code survives an error in the lines that clean up after errors; Ctrl-C comes there too."""
PROMISE = "no hook left, weights, flags, tokenizer and logits as before, bit for bit"


Tick = Callable[[], None]


@cache
def _models() -> tuple[Any, ...]:
    """Two shapes of the class that the installed TransformerLens calls its own."""
    folder = Path(tempfile.mkdtemp(prefix="fault-models-"))
    made = []
    for name, write in (("gpt2", write_gpt2_folder), ("llama", write_llama_folder)):
        path = folder / name
        path.mkdir()
        write(path)
        old = _legacy()
        made.append(build_hooked(path, name) if old else lp.load(path, device="cpu"))
    return tuple(made)


def _legacy() -> bool:
    import importlib.metadata

    return importlib.metadata.version("transformer-lens").startswith("3.")


def _state(model: Any) -> tuple[Any, ...]:
    """Everything about a model that an analysis must leave as it was."""
    points = model.hook_dict.values()
    modules = list(model.modules())
    tokenizer = model.tokenizer
    return (
        sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in points),
        sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in points),
        sum(len(m._backward_hooks) for m in modules),
        sum("forward" in vars(m) for m in modules),
        [m.training for m in modules],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        (tokenizer.padding_side, tokenizer.pad_token, tokenizer.bos_token),
        {k: v for k, v in vars(model.cfg).items() if isinstance(v, bool | int | float | str)},
        weights_fingerprint(model),
        torch.is_grad_enabled(),
        sys.getprofile() is None,
    )


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    return model(torch.arange(3, 40)[None])


@contextmanager
def in_hooks(tick: Tick) -> Iterator[None]:
    """A tick whenever a hook that lensprobe has attached is called."""
    attach = HookPoint.add_hook

    def add_hook(self: Any, hook: Callable[..., Any], *given: Any, **options: Any) -> Any:
        def ticking(*values: Any, **more: Any) -> Any:
            tick()
            return hook(*values, **more)

        return attach(self, ticking, *given, **options)

    with mock.patch.object(HookPoint, "add_hook", add_hook):
        yield


@contextmanager
def in_modules(tick: Tick) -> Iterator[None]:
    """A tick whenever any module of the model runs."""
    handle = register_module_forward_pre_hook(lambda module, given: tick())
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def in_calls(tick: Tick) -> Iterator[None]:
    """A tick whenever a function of lensprobe is called."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # An error at the entry of a generator that waits in a `with` would skip its handlers.
        if event == "call" and code.co_filename.startswith(LIBRARY) and _interruptible(frame):
            tick()

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def _interruptible(frame: FrameType) -> bool:
    if frame.f_code.co_flags & inspect.CO_GENERATOR:
        return False
    above: FrameType | None = frame
    while above is not None:
        if above.f_code.co_name in CLEANING:
            return False
        above = above.f_back
    return True


@contextmanager
def in_any_call(tick: Tick) -> Iterator[None]:
    """A tick at each call of a function of lensprobe, those that clean up among them."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(LIBRARY):
            tick()

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@cache
def _ticks(model: int, name: str, place: Any) -> int:
    """How often a place is passed in an undisturbed run; 0 where the analysis does not run."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    try:
        with place(tick):
            every_analysis.calls(_models()[model])[name]()
    except lp.LensprobeError:
        return 0
    return count


def _injected(place: Any, strike: Callable[[random.Random], None]) -> Any:
    def trial(chance: random.Random, folder: Path) -> str:
        # Where it is ignored a trial of Ctrl-C would hold and have tried nothing.
        assert callable(signal.getsignal(signal.SIGINT)), "Ctrl-C is ignored here"
        index = chance.randrange(len(_models()))
        model = _models()[index]
        before, logits = _state(model), _logits(model)
        names = list(every_analysis.calls(model))
        name = chance.choice([n for n in names if n != "lp.editing" and n != "lp.chat"])
        passed = _ticks(index, name, place)
        left = chance.randrange(max(1, passed))

        def tick() -> None:
            nonlocal left
            left -= 1
            if left == -1:
                strike(chance)

        outcome = "finished: handled inside"
        try:
            with place(tick):
                every_analysis.calls(model)[name]()
        except lp.Interrupted:
            outcome = "Interrupted"
        except KeyboardInterrupt:
            outcome = "KeyboardInterrupt came through"
        except BaseException:
            outcome = "the error came through"
        if left >= 0:
            outcome = "the run ended before its turn"
        after = _state(model)
        changed = [number for number, part in enumerate(before) if part != after[number]]
        assert not changed, f"{name}: parts {changed} of its state"
        assert torch.equal(_logits(model), logits), f"{name}: other logits"
        return outcome

    return trial


def _raise(chance: random.Random) -> None:
    raise chance.choice(ERRORS)("injected")


def _control_c(chance: random.Random) -> None:
    signal.raise_signal(signal.SIGINT)


FAULTS = (
    Fault("an exception in a hook", PROMISE, _injected(in_hooks, _raise), 70, 3),
    Fault("an exception in a module of the model", PROMISE, _injected(in_modules, _raise), 70, 2),
    Fault("an exception in a function of the analysis", PROMISE, _injected(in_calls, _raise), 70, 3),
    Fault("Ctrl-C (SIGINT) at any call, cleaning up included", PROMISE,
          _injected(in_any_call, _control_c), 100, 3),
)  # fmt: skip
