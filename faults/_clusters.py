"""A Ray cluster of two nodes on this machine, so that one of them can go away."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from . import NotHereError

__all__ = ["ENVIRONMENT", "actors", "cluster", "needed"]

ENVIRONMENT = {
    # Ray hands these on to its processes, which would else ask other hosts and use every core.
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    # On a busy machine its own processes are slower to begin than it waits.
    "RAY_agent_register_timeout_ms": "120000",
}


def needed() -> None:
    """Without Ray nothing can be tried.

    Raises:
        NotHereError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise NotHereError("Ray is not installed (`make test-ray` installs it)")


@contextmanager
def cluster() -> Iterator[tuple[Any, Any]]:
    """Two nodes with room for one worker each, connected to; yields them, and the second alone."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray.cluster_utils import Cluster

    head = {"include_dashboard": False, **_one_core()}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = made.add_node(**_one_core())
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        made.wait_for_nodes()
        yield made, second
    finally:
        ray.shutdown()
        made.shutdown()


def _one_core() -> dict[str, int]:
    """A node with room for one worker. A busy machine may be too slow to agree on ports in time."""
    names = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = {f"{name}_port": s.getsockname()[1] for name, s in zip(names, sockets, strict=True)}
    return {"num_cpus": 1, **ports}


def actors() -> list[psutil.Process]:
    """The actors of this machine that this process, or a node that it started, has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray::MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
