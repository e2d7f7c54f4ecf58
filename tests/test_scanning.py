"""The loop under every scan: hooks, interrupts, memory, plans, progress."""

from __future__ import annotations

import io
import mmap
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr

import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe import massive, scanning, sinks
from lensprobe.corpus import Batch, Corpus
from lensprobe.costs import PeakMemory, Plan
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.results import Result

TEXTS = ["Hello world, this is", "I", "The cat sat on the mat and then it went away"] * 4
LOW = {"threshold": 0.05, "ratio": 4.0}


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["massive", "sinks"])
def scan(request):
    return {"massive": massive.scan, "sinks": sinks.scan}[request.param]


def hooks_of(model) -> int:
    points = {id(p): p for p in model.hook_dict.values()}.values()
    return sum(len(p.fwd_hooks) + len(p.bwd_hooks) + len(p._forward_hooks) for p in points)


def same(one: Result, two: Result) -> None:
    for table in one.tables:
        left, right = one.to_frame(table), two.to_frame(table)
        numbers = left.columns[[column.kind in "fi" for column in left.dtypes]]
        close(left[numbers], right[numbers])


class Failing:
    """Wraps the forward pass of the loop: raises `error` on the calls for which `when` is true."""

    def __init__(self, monkeypatch, error, when):
        self.calls: list[int] = []
        real = scanning.forward

        def forward(adapter, reading, batch, ranges):
            self.calls.append(batch.size)
            if when(self, batch):
                raise error
            return real(adapter, reading, batch, ranges)

        monkeypatch.setattr(scanning, "forward", forward)


# ---- hooks ------------------------------------------------------------------------------------


def test_no_hook_is_left_after_a_scan(model, scan):
    before = hooks_of(model)
    plain = model(torch.tensor([[1, 2, 3]]))
    scan(model, TEXTS)
    assert hooks_of(model) == before
    assert torch.equal(model(torch.tensor([[1, 2, 3]])), plain)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_no_hook_is_left_after_an_exception_inside_one(model, scan, monkeypatch, error):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr("lensprobe.massive.reading.magnitudes", broken)
    monkeypatch.setattr("lensprobe.sinks.reading.entropies", broken)
    before = hooks_of(model)
    with pytest.raises(type(error)):
        scan(model, TEXTS)
    assert hooks_of(model) == before


def test_the_users_hooks_stay_and_see_the_whole_pass(model, scan):
    seen = []
    last = f"blocks.{adapter_for(model).n_layers - 1}.hook_resid_post"
    plain = scan(model, TEXTS, layers=[0])
    with model.hooks(fwd_hooks=[(last, lambda x, hook: seen.append(x.shape))]):
        hooked = scan(model, TEXTS, layers=[0], batch_tokens=64)
        inside = hooks_of(model)
    assert inside == hooks_of(model) + 2
    assert len(seen) > 1
    same(plain, hooked)
    assert hooked.provenance["user_hooks"] == [last]
    assert any("whole forward passes" in note for note in hooked.provenance["notes"])
    assert not any("whole forward passes" in note for note in plain.provenance["notes"])


def test_the_users_hooks_are_active(model):
    def push(x, hook):
        return x + 5.0

    plain = massive.scan(model, TEXTS, layers=[1])
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", push)]):
        pushed = massive.scan(model, TEXTS, layers=[1])
    assert pushed.layers["median"].iloc[0] > plain.layers["median"].iloc[0] + 2


def test_layers_above_the_last_one_read_do_not_run(model, scan):
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda module, args, n=n: ran.append(n))
        for n, block in enumerate(model.blocks)
    ]
    try:
        scan(model, TEXTS[:1], layers=[0, 1])
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {0, 1}


def test_an_encoder_decoder_is_refused(model, scan, monkeypatch):
    monkeypatch.setattr(adapter_for(model), "encoder_decoder", True)
    with pytest.raises(ModelError, match=r"scan needs a decoder-only model"):
        scan(model, TEXTS)


def test_gradients_are_not_recorded_and_the_mode_is_kept(model, scan):
    with torch.enable_grad():
        scan(model, TEXTS[:1])
        assert torch.is_grad_enabled()
    model.train()
    try:
        trained = scan(model, TEXTS[:1])
        assert model.training
    finally:
        model.eval()
    assert any("training mode" in note for note in trained.provenance["notes"])


# ---- interrupts -------------------------------------------------------------------------------


def test_an_interrupt_returns_what_was_finished(model, scan, monkeypatch):
    options = {"batch_tokens": 24}
    batches = list(Corpus(adapter_for(model), TEXTS, **options).batches())
    finished = [window for batch in batches[:2] for window in batch.windows]
    failing = Failing(monkeypatch, KeyboardInterrupt(), lambda self, batch: len(self.calls) == 3)
    with pytest.raises(Interrupted, match="sequences") as caught:
        scan(model, TEXTS, **options)
    assert len(failing.calls) == 3
    partial = caught.value.partial
    assert partial.provenance["complete"] is False
    assert partial.summary()["complete"] is False
    assert partial.provenance["sequences"] == len(finished)
    assert partial.provenance["tokens"] == sum(len(window.ids) for window in finished)
    monkeypatch.undo()
    same(partial, scan(model, [list(window.ids) for window in finished]))
    assert isinstance(caught.value, KeyboardInterrupt)


def test_an_interrupt_before_the_first_batch_has_nothing(model, scan, monkeypatch):
    Failing(monkeypatch, KeyboardInterrupt(), lambda self, batch: True)
    with pytest.raises(Interrupted) as caught:
        scan(model, TEXTS)
    assert caught.value.partial is None


def test_an_interrupt_while_the_first_text_waits_has_an_empty_landscape(model, monkeypatch):
    texts = ["Hi", *TEXTS]
    failing = Failing(monkeypatch, KeyboardInterrupt(), lambda self, batch: len(self.calls) == 2)
    with pytest.raises(Interrupted) as caught:
        massive.scan(model, texts, batch_tokens=24)
    partial = caught.value.partial
    assert len(failing.calls) == 2
    assert partial.landscape.shape == (0, adapter_for(model).d_model)
    assert partial.landscape_tokens == []


def test_a_merge_is_never_interrupted_halfway(model, scan, monkeypatch):
    from lensprobe.statistics import Bundle

    real = Bundle.merge

    def merge(self, other):
        os.kill(os.getpid(), signal.SIGINT)
        real(self, other)

    monkeypatch.setattr(Bundle, "merge", merge)
    with pytest.raises(Interrupted) as caught:
        scan(model, TEXTS, batch_tokens=24)
    batches = list(Corpus(adapter_for(model), TEXTS, batch_tokens=24).batches())
    expected = sum(len(batch.windows) for batch in batches[:2])
    assert caught.value.partial.provenance["sequences"] == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- memory -----------------------------------------------------------------------------------

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "python", "cpu", "cpu2"])
def test_lack_of_memory_halves_the_batch_and_says_so(model, scan, monkeypatch, error):
    plain = scan(model, TEXTS, batch_tokens=100)
    failing = Failing(monkeypatch, error, lambda self, batch: batch.size > 40)
    halved = scan(model, TEXTS, batch_tokens=100)
    same(plain, halved)
    assert halved.provenance["sequences"] == len(TEXTS)
    assert halved.provenance["complete"] is True
    notes = [note for note in halved.provenance["notes"] if "memory ran out" in note]
    assert notes
    # The lesson is learned: later batches are small from the start.
    assert sum(size > 40 for size in failing.calls) == len(notes) <= 2


def test_a_batch_that_fails_halfway_leaves_nothing_behind(model, monkeypatch):
    from lensprobe.massive import reading

    plain = massive.scan(model, TEXTS, batch_tokens=100)
    real, calls = reading.magnitudes, []

    def magnitudes(activation, lengths, **options):
        calls.append(len(lengths))
        if len(calls) == 3:
            raise MemoryError
        return real(activation, lengths, **options)

    monkeypatch.setattr(reading, "magnitudes", magnitudes)
    again = massive.scan(model, TEXTS, batch_tokens=100)
    same(plain, again)
    assert calls[3] < calls[0]


def test_a_single_sequence_that_does_not_fit_is_an_error(model, scan, monkeypatch):
    Failing(monkeypatch, MemoryError(), lambda self, batch: True)
    with pytest.raises(ArgumentError, match="single sequence of"):
        scan(model, TEXTS)


def test_other_errors_are_not_taken_for_lack_of_memory(model, scan, monkeypatch):
    Failing(monkeypatch, RuntimeError("shapes cannot be multiplied"), lambda self, batch: True)
    with pytest.raises(RuntimeError, match="multiplied"):
        scan(model, TEXTS)


MEMORY = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from tempfile import mkdtemp
from tiny_models import build_hooked, write_gpt2_folder
import transformer_lens, importlib.metadata, numpy as np
from lensprobe import massive, sinks
from lensprobe.costs import resident
folder = write_gpt2_folder(Path(mkdtemp()))
if importlib.metadata.version("transformer-lens").startswith("3."):
    model = build_hooked(folder, "gpt2")
else:
    from transformer_lens.model_bridge import TransformerBridge
    model = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
def texts(count):
    rng = np.random.default_rng(0)
    for size in rng.integers(4, 24, count):
        yield rng.integers(1, 300, size).tolist()
scan = getattr({name}, "scan")
scan(model, texts(200), batch_tokens=512)
before = resident()
scan(model, texts(100), batch_tokens=512)
few = resident()
assert scan(model, texts(3000), batch_tokens=512).provenance["sequences"] == 3000
print((resident() - max(few, before)) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["massive", "sinks"])
def test_memory_does_not_grow_with_the_corpus(name):
    here = os.path.dirname(__file__)
    code = MEMORY.format(tests=here, name=name)
    root = os.path.dirname(here)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[-1]) < 25


# ---- plans ------------------------------------------------------------------------------------


def test_a_dry_run_counts_and_estimates(model, scan, tmp_path, monkeypatch):
    options = {"length": 8, "batch_tokens": 40}
    whole = scan(model, TEXTS, **options)
    failing = Failing(monkeypatch, ValueError(), lambda self, batch: False)
    plan = scan(model, TEXTS, dry_run=True, **options)
    assert isinstance(plan, Plan)
    facts = plan.summary()
    for name in ("documents", "sequences", "tokens"):
        assert facts[name] == whole.provenance[name]
    batches = list(Corpus(adapter_for(model), TEXTS, **options).batches())
    assert facts["passes"] == len(batches)
    assert len(failing.calls) == 2
    assert plan.seconds > 0
    assert plan.memory > 2**20
    assert plan.provenance["complete"] is False
    again = lp.open(plan.save(tmp_path / "plan.zip"))
    pd.testing.assert_frame_equal(again.to_frame(), plan.to_frame())
    with lp.options(dry_run=True):
        assert isinstance(scan(model, TEXTS), Plan)
        assert not isinstance(scan(model, TEXTS, dry_run=False), Plan)


def test_peak_memory_sees_what_was_there_only_for_a_while():
    # Straight from the system: malloc may hand out memory the process holds already.
    with PeakMemory(torch.device("cpu")) as peak, mmap.mmap(-1, 64 * 2**20) as block:
        for _ in range(64):
            block.write(b"x" * 2**20)
        # Long enough that the watcher gets its turn on a busy machine.
        time.sleep(0.5)
    with PeakMemory(torch.device("cpu")) as calm:
        pass
    assert peak.bytes > calm.bytes + 32 * 2**20


# ---- progress ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_the_bar_shows_itself_when_it_is_wanted(model, scan, progress, shown):
    err = io.StringIO()
    with redirect_stderr(err):
        scan(model, TEXTS, batch_tokens=24, progress=progress)
    assert bool(err.getvalue()) is shown
    if shown:
        assert "tok" in err.getvalue()


def test_batches_can_be_cut_anywhere(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    (batch,) = Corpus(adapter, TEXTS).batches()
    part = Batch.of(adapter, batch.windows[-2:])
    assert part.tokens.ids.shape[1] == part.lengths.max() < batch.tokens.ids.shape[1]
