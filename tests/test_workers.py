"""Many processes, the same answer: who reads which piece, and who dies over it, changes no bit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import reading_aside
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resuming import LOW, TEXTS, equal
from typer.testing import CliRunner

import lensprobe as lp
from lensprobe import cli
from lensprobe.corpus import Corpus, Tally
from lensprobe.errors import ArgumentError, Interrupted, LensprobeError, ModelError, OutputError
from lensprobe.massive.reading import MassiveReading
from lensprobe.models.adapter import adapter_for
from lensprobe.models.origin import loading
from lensprobe.scanning import Scan
from lensprobe.shards import crew, folder, keeping, on_ray, pool
from lensprobe.shards.folder import Folder, Kept
from lensprobe.shards.line import Done, Line
from lensprobe.shards.pieces import Piece, pieces
from lensprobe.shards.pool import ATTEMPTS, in_processes
from lensprobe.shards.recipe import recipe

LAYERS = partial(MassiveReading, layers=(0, 1, 2), site="resid_post", **LOW)
posix = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces so small that there are many; equal threads, so that sums are equal to the last bit."""
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 200)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["massive", "sinks"])
def scan(request):
    room = getattr(lp, request.param)
    options = LOW if request.param == "massive" else {}
    return lambda *given, **more: room.scan(*given, **{**options, "batch_tokens": 128, **more})


def numbered(count: int, kept: frozenset[int] = frozenset()) -> list[Piece]:
    """Pieces whose windows are numbers; of some an earlier run has the sum."""
    made = []
    for n in range(count):
        found = Kept({"notes": []}, {"sum/value": np.array(2 * n + 1)}) if n in kept else None
        windows = () if n in kept else (n, n + 1)
        made.append(Piece(n, windows, Tally(), "", found))
    return made


# ---- in order ----------------------------------------------------------------------------------


@given(st.integers(0, 12), st.frozensets(st.integers(0, 11)), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_finished_first_the_order_is_that_of_the_corpus(count, kept, ahead, data):
    saved, out, given_back = [], [], []
    line = Line(iter(numbered(count, kept)), saved.append, ahead)
    while not line.over:
        while (piece := line.next()) is not None:
            out.append(piece)
        assert len(out) <= ahead
        if out:
            piece = out.pop(data.draw(st.integers(0, len(out) - 1)))
            if data.draw(st.booleans()):
                line.back(piece)
            else:
                for _ in range(data.draw(st.integers(1, 2))):
                    line.done(Done(piece, {"sum/value": np.array(2 * piece.number + 1)}, []))
        given_back += line.ready()
    assert [int(done.state["sum/value"]) for done in given_back] == [
        2 * n + 1 for n in range(count)
    ]
    assert sorted(done.piece.number for done in saved) == sorted(set(range(count)) - kept)


# ---- processes ---------------------------------------------------------------------------------


def sums(open_reader, count=6, workers=2, keep=lambda done: None):
    with closing(in_processes(open_reader, workers, iter(numbered(count)), keep)) as done:
        return [int(each.state["sum/value"]) for each in done]


@posix
def test_a_piece_whose_reader_was_killed_is_read_again(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    saved = []
    found = sums(partial(reading_aside.dying, str(tmp_path), 3), keep=saved.append)
    assert found == [2 * n + 1 for n in range(6)]
    assert sorted(done.piece.number for done in saved) == list(range(6))
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


@posix
def test_a_piece_that_always_kills_is_named(tmp_path):
    for name in range(2 * ATTEMPTS):
        (tmp_path / str(name)).touch()
    with pytest.raises(LensprobeError, match=r"3 workers died while they read piece 2 .* -9"):
        sums(partial(reading_aside.dying, str(tmp_path), 3), workers=1)
    assert not multiprocessing.active_children()


def test_what_a_worker_raises_is_raised_here():
    with pytest.raises(LensprobeError, match="a worker failed: ValueError: 13 of all numbers"):
        sums(reading_aside.summing, count=15)
    with pytest.raises(ModelError, match="no such model here"):
        sums(reading_aside.missing)
    assert not multiprocessing.active_children()


def test_whoever_stops_listening_ends_them():
    with closing(in_processes(reading_aside.summing, 2, iter(numbered(9)), print)) as done:
        next(done)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


@posix
@pytest.mark.slow
def test_a_scan_by_two_workers_of_whom_one_is_killed(planted, tmp_path, monkeypatch):
    alone = lp.massive.scan(planted, TEXTS, out=tmp_path / "alone", batch_tokens=128, **LOW)
    real, killed = Folder.save, []

    def save(self, *given):
        real(self, *given)
        if not killed:
            worker = multiprocessing.active_children()[0]
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker)

    monkeypatch.setattr(Folder, "save", save)
    options = {"batch_tokens": 128, "workers": 2, **LOW}
    equal(lp.massive.scan(planted, TEXTS, out=tmp_path / "two", **options), alone)
    assert killed and not multiprocessing.active_children()
    equal(lp.open(tmp_path / "two"), alone)


@posix
@pytest.mark.slow
def test_ctrl_c_at_a_terminal_ends_all_and_the_same_call_goes_on(planted, tmp_path, monkeypatch):
    options = {"batch_tokens": 128, **LOW}
    alone = lp.massive.scan(planted, TEXTS, out=tmp_path / "alone", **options)
    real, sent = Scan.take, []

    def take(self, *given):
        real(self, *given)
        sent.append(1)
        if len(sent) == 2:
            # A terminal sends it to every process that it began.
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGINT)

    monkeypatch.setattr(Scan, "take", take)
    with pytest.raises(Interrupted) as caught:
        lp.massive.scan(planted, TEXTS, out=tmp_path / "run", workers=2, **options)
    assert not multiprocessing.active_children()
    assert caught.value.partial.provenance["complete"] is False
    assert 0 < caught.value.partial.provenance["tokens"] < alone.provenance["tokens"]
    equal(lp.massive.scan(planted, TEXTS, out=tmp_path / "run", **options), alone)


@posix
@pytest.mark.parametrize("silenced", [True, False])
def test_a_worker_hears_no_ctrl_c_while_it_starts(silenced):
    process = multiprocessing.get_context("spawn").Process(target=reading_aside.interrupted)
    with pool._silenced() if silenced else nullcontext():
        process.start()
    process.join()
    assert bool(process.exitcode) is not silenced


# ---- recipes -----------------------------------------------------------------------------------


def scanned(model, **corpus) -> Scan:
    adapter = adapter_for(model)
    options = {"length": 64, "batch_tokens": 128, **corpus}
    return Scan(adapter, Corpus(adapter, TEXTS[:9], **options), LAYERS(adapter))


@pytest.mark.parametrize("bos", [True, False])
def test_a_recipe_makes_the_same_reader(planted, bos):
    scan = scanned(planted, bos=bos)
    made = pickle.loads(pickle.dumps(recipe(scan, LAYERS, None)))
    read = made.open(1, "cpu")
    for piece in pieces(scan.corpus, 200, lambda number: None):
        (state, notes), (expected, before) = read(piece.windows), scan.alone(piece.windows)
        assert notes == before and set(state) == set(expected)
        for name in state:
            np.testing.assert_array_equal(state[name], expected[name])
        sent = on_ray._windows(on_ray._bytes(piece.windows))
        assert tuple(sent) == piece.windows


def test_a_model_is_loaded_again_as_it_was(llama_folder, monkeypatch):
    monkeypatch.chdir(llama_folder.parent)
    model = lp.load(llama_folder.name, device="cpu", dtype="float64")
    made = recipe(scanned(model), LAYERS, None)
    monkeypatch.chdir("/")
    assert made.options["dtype"] == "float64"
    assert made.open(None, "cpu")(next(pieces(scanned(model).corpus, 9, lambda n: None)).windows)


def test_what_others_could_not_do_is_refused(planted, tiny_gpt2):
    with pytest.raises(ArgumentError, match=r"not loaded by lp.load\(name\)"):
        lp.massive.scan(tiny_gpt2, TEXTS, workers=2)
    with (
        planted.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x)]),
        pytest.raises(ArgumentError, match="hooks of your own"),
    ):
        lp.massive.scan(planted, TEXTS, workers=2)
    model = lp.load("planted", device="cpu")
    made = recipe(scanned(model), LAYERS, None)
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1
    with pytest.raises(ModelError, match="other weights where a worker loads it"):
        recipe(scanned(model), LAYERS, None).open(1, "cpu")
    assert made.open(1, "cpu")
    model.train()
    with pytest.raises(ArgumentError, match="training mode"):
        recipe(scanned(model), LAYERS, None)
    assert loading(lp.load("planted", device="cpu", tokenizer=model.tokenizer)) is None


# ---- shares ------------------------------------------------------------------------------------


def test_shares_make_the_whole(tiny_gpt2, scan, tmp_path):
    whole = scan(tiny_gpt2, TEXTS, out=tmp_path / "whole")
    for index in (2, 0, 1):
        assert scan(tiny_gpt2, TEXTS, out=tmp_path / "run", part=(index, 3)) is None
    passes = []
    handle = tiny_gpt2.blocks[0].register_forward_pre_hook(lambda *given: passes.append(1))
    try:
        equal(scan(tiny_gpt2, TEXTS, out=tmp_path / "run"), whole)
    finally:
        handle.remove()
    assert not passes


def test_the_last_call_does_what_no_share_has_done(tiny_gpt2, tmp_path):
    texts = {"prose": TEXTS[:20], "more": [text.upper() for text in TEXTS[:9]]}
    options = {"conditions": ("random", "repeated"), "seed": 3, "batch_tokens": 128, "length": 16}
    whole = lp.sinks.scan(tiny_gpt2, texts, out=tmp_path / "whole", **options)
    assert lp.sinks.scan(tiny_gpt2, texts, out=tmp_path / "run", part=(1, 3), **options) is None
    done = sorted(path.relative_to(tmp_path / "run") for path in tmp_path.glob("run/*/shard*"))
    assert {int(path.stem[-6:]) % 3 for path in done} == {1}
    equal(lp.sinks.scan(tiny_gpt2, texts, out=tmp_path / "run", **options), whole)


def test_shares_work_side_by_side_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    one, two = (Folder(tmp_path, {"run": 1}, (n, 2)) for n in range(2))
    with one, two:
        one.save(0, {}, {"a/b": np.arange(3)})
        assert two.load(0) is not None
        for other in (Folder(tmp_path, {"run": 1}), Folder(tmp_path, {"run": 1}, (1, 2))):
            with pytest.raises(OutputError, match="another run is working"), other:
                pass
        with pytest.raises(OutputError, match="holds another run"), Folder(tmp_path, {}, (1, 3)):
            pass
    with Folder(tmp_path, {"run": 1}) as whole:
        assert whole.load(0) is not None
        share = Folder(tmp_path, {"run": 1}, (0, 2))
        with pytest.raises(OutputError, match="another run is working"), share:
            pass


# ---- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": True}, "workers=True"),
        ({"engine": "rya"}, r"engine='rya': 'local' or 'ray'. Did you mean 'ray'\?"),
        ({"part": (0, 2)}, "pass out= as well"),
        ({"part": (2, 2), "out": "x"}, r"part=\(2, 2\)"),
        ({"part": 3, "out": "x"}, "part=3"),
        ({"part": (0.0, 2), "out": "x"}, "part="),
    ],
)
def test_bad_arguments(tiny_gpt2, scan, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=words):
        scan(tiny_gpt2, TEXTS, **options)
    assert not list(tmp_path.iterdir())


def test_options_in_force_count_too(tiny_gpt2):
    with lp.options(workers=2), pytest.raises(ArgumentError, match="other processes"):
        lp.sinks.scan(tiny_gpt2, TEXTS)
    with lp.options(engine="ray", num_gpus=-1), pytest.raises(ArgumentError, match="num_gpus=-1"):
        lp.sinks.scan(tiny_gpt2, TEXTS)


def test_without_ray_the_way_to_it_is_told(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"pip install 'lensprobe\[ray\]'"):
        lp.massive.scan(planted, TEXTS, engine="ray")


def test_what_an_actor_cannot_do_comes_back_as_words(planted):
    made = recipe(scanned(planted), LAYERS, None)
    wrong = replace(made, weights="another")
    piece = on_ray._bytes(next(pieces(scanned(planted).corpus, 9, lambda n: None)).windows)
    answers = [
        on_ray.Actor(each, 1, "cpu")({"number": np.array([3]), "data": [piece]})["data"][0]
        for each in (made, wrong)
    ]
    (good, state), (bad, nothing) = (on_ray.unpacked(each, "an answer") for each in answers)
    assert state and good["notes"] == []
    assert not nothing and bad["error"].startswith("ModelError: 'planted' has other weights")


def test_gpus_are_counted(planted):
    assert crew._gpus(planted) == 0


# ---- the command line --------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What the command line asks of a scan, which answers as a share does."""
    seen: dict = {}

    def scan(model, texts, **options):
        seen.update(options, **{name: lp.options()[name] for name in ("workers", "engine")})

    monkeypatch.setattr(lp, "load", lambda name, **options: name)
    monkeypatch.setattr(lp.massive, "scan", scan)
    return seen


def test_the_command_line_passes_them_on(asked, tmp_path):
    words = ["scan", "gpt2", "--what", "massive", "--workers", "3", "--engine", "ray"]
    done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path), "--part", "1/4"])
    assert done.exit_code == 0, done.output
    assert {"out": tmp_path, "part": (1, 4), "workers": 3, "engine": "ray"}.items() <= asked.items()
    assert "Share 1/4 is in" in done.output
    assert lp.options()["workers"] == 1


@pytest.mark.parametrize(
    "words",
    ["--workers 0", "--engine slurm", "--what all --out x", "--part 1/4",
     "--what massive --out x --part 4/4", "--what massive --out x --part 1"],
)  # fmt: skip
def test_wrong_usage(asked, words):
    assert CliRunner().invoke(cli.app, ["scan", *words.split()]).exit_code == 2
    assert not asked
