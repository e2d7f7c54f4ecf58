"""Scans on a Ray cluster: a worker or a whole node goes away while they run, the answer stays."""

from __future__ import annotations

import os
import signal

import pytest
from test_resuming import LOW, TEXTS, equal

import lensprobe as lp
from lensprobe.shards import keeping, on_ray
from lensprobe.shards.folder import Folder

ray = pytest.importorskip("ray", reason="Ray is an extra: make test-ray")
pytestmark = pytest.mark.slow

OPTIONS = {"batch_tokens": 128, **LOW}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 200)
    # Ray hands these on to its processes, which would else ask other hosts and use every core.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds, with the same pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "PIECE_TOKENS", 200)
        folder = tmp_path_factory.mktemp("alone")
        return lp.massive.scan(lp.load("planted", device="cpu"), TEXTS, out=folder, **OPTIONS)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes on this machine, this process connected to the first."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.second = made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


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


def actors() -> dict[int, str]:
    """Process → node of the actors that are alive."""
    from ray.util.state import list_actors

    found = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    return {actor.pid: actor.node_id for actor in found if "MapWorker" in actor.class_name}


def test_a_local_ray_gives_the_same_bits_and_ends(planted, alone, monkeypatch):
    monkeypatch.setattr(on_ray, "FIRST", 6)
    equal(lp.massive.scan(planted, TEXTS, engine="ray", workers=2, **OPTIONS), alone)
    assert not ray.is_initialized()


def test_an_actor_that_is_killed(planted, alone, cluster, tmp_path, monkeypatch):
    killed = []

    def kill():
        pid = next(iter(actors()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    after_the_first(monkeypatch, kill)
    found = lp.massive.scan(
        planted, TEXTS, engine="ray", workers=2, out=tmp_path / "run", **OPTIONS
    )
    assert killed
    equal(found, alone)
    equal(lp.open(tmp_path / "run"), alone)
    assert ray.is_initialized()


def test_a_node_that_goes_away(planted, alone, cluster, tmp_path, monkeypatch):
    gone = []

    def remove():
        second = cluster.second.node_id
        gone.extend(pid for pid, node in actors().items() if node == second)
        cluster.remove_node(cluster.second, allow_graceful=False)

    after_the_first(monkeypatch, remove)
    options = {"engine": "ray", "workers": 4, "out": tmp_path / "run", **OPTIONS}
    equal(lp.massive.scan(planted, TEXTS, **options), alone)
    # There was work on it.
    assert gone
