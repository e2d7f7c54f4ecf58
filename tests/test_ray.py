"""Scans on a Ray cluster: a worker or a whole node goes away while they run, the answer stays."""

from __future__ import annotations

import time

import pytest
import torch
from test_resuming import LOW, TEXTS, equal

import lensprobe as lp
from faults import _clusters
from faults._clusters import actors
from lensprobe.shards import keeping, on_ray
from lensprobe.shards.folder import Folder

ray = pytest.importorskip("ray", reason="Ray is an extra: make test-ray")
pytestmark = pytest.mark.slow

OPTIONS = {"batch_tokens": 128, **LOW}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 200)
    # Sums are equal to the last bit at equal threads.
    monkeypatch.setattr(on_ray, "_threads", lambda *given: 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in _clusters.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds, with the same pieces."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "PIECE_TOKENS", 200)
        folder = tmp_path_factory.mktemp("alone")
        model = lp.load("planted", device="cpu")
        found = lp.massive.scan(model, TEXTS, out=folder, **OPTIONS)
    torch.set_num_threads(threads)
    return found


@pytest.fixture
def cluster():
    """Two nodes on this machine with room for one worker each, and a connection to the first."""
    with _clusters.cluster() as nodes:
        yield nodes


def after_the_first(monkeypatch, do):
    """Call `do` once, when the first piece has been kept."""
    real, done = Folder.save, []

    def save(self, *given):
        real(self, *given)
        if not done:
            done.append(1)
            do()

    monkeypatch.setattr(Folder, "save", save)
    return done


def test_a_local_ray_gives_the_same_bits_and_ends(planted, alone, monkeypatch):
    monkeypatch.setattr(on_ray, "FIRST", 6)
    equal(lp.massive.scan(planted, TEXTS, engine="ray", workers=2, **OPTIONS), alone)
    assert not ray.is_initialized()


def test_an_actor_that_is_killed(planted, alone, cluster, tmp_path, monkeypatch):
    killed = []

    def kill():
        process = actors()[0]
        process.kill()
        killed.append(process)

    after_the_first(monkeypatch, kill)
    found = lp.massive.scan(
        planted, TEXTS, engine="ray", workers=2, out=tmp_path / "run", **OPTIONS
    )
    assert killed
    equal(found, alone)
    equal(lp.open(tmp_path / "run"), alone)
    assert ray.is_initialized()


def test_a_node_that_goes_away(planted, alone, cluster, tmp_path, monkeypatch):
    (nodes, second), gone = cluster, []

    def remove():
        own = {each.process.pid for each in second.all_processes["raylet"]}
        end = time.monotonic() + 120
        while not gone and time.monotonic() < end:
            gone.extend(process for process in actors() if process.ppid() in own)
            time.sleep(0.1)
        nodes.remove_node(second, allow_graceful=False)

    after_the_first(monkeypatch, remove)
    options = {"engine": "ray", "workers": 2, "out": tmp_path / "run", **OPTIONS}
    equal(lp.massive.scan(planted, TEXTS, **options), alone)
    # There was work on it.
    assert gone
