"""Scans on a Ray cluster: a worker or a whole node goes away while they run, the answer stays."""

from __future__ import annotations

import contextlib
import socket
import time

import psutil
import pytest
import torch
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
    # Sums are equal to the last bit at equal threads.
    monkeypatch.setattr(on_ray, "_threads", lambda *given: 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Ray hands these on to its processes, which would else ask other hosts and use every core.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # On a busy machine its own processes are slower to begin than it waits.
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "120000")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
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


def one_core() -> dict[str, int]:
    """A node with room for one worker. A busy machine may be too slow to agree on ports in time."""
    names = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {f"{name}_port": s.getsockname()[1] for name, s in zip(names, sockets, strict=True)}
    return {"num_cpus": 1, **ports}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes on this machine with room for one worker each, and a connection to the first."""
    from ray.cluster_utils import Cluster

    head = {"include_dashboard": False, **one_core()}
    made = Cluster(initialize_head=True, head_node_args=head)
    second = made.add_node(**one_core())
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    made.wait_for_nodes()
    yield made, second
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


def actors() -> list[psutil.Process]:
    """The actors of this machine that this process, or a node that it started, has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


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
