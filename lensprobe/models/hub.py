"""The model hub: what is already here, whether it answers, and fetching what is missing.

The hub's own client retries for more than twenty seconds without a network. Here the cache is looked at
first, and one question with a short patience decides before anything is downloaded.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError

__all__ = ["ask", "cached", "fetch", "has_weights", "offline"]

PATIENCE = 1.3
"""Seconds the hub is given to answer at all."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_KEPT = (".json", ".txt", ".model", ".jinja", ".safetensors")


def cached(repo: str, revision: str | None, marker: str = "config.json") -> Path | None:
    """The snapshot folder of a repository in the hub cache, if it holds the file `marker`."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, marker, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def has_weights(folder: Path) -> bool:
    """Whether a folder holds whole transformers weights: one file, or every shard of an index."""
    for name in _WEIGHTS:
        if (folder / name).exists():
            return True
        index = folder / f"{name}.index.json"
        if index.exists():
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError):
                return False
            return all((folder / shard).exists() for shard in shards)
    return False


def ask(repo: str) -> int | None:
    """The HTTP status of the hub's page on a repository; None when there is no answer in time."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return None
    url = f"{constants.ENDPOINT}/api/models/{repo}"
    # Not the client's own headers: making those asks the network too, with a patience of its own.
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, method="HEAD", headers=headers)
    answer: list[int] = []

    def question() -> None:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                answer.append(reply.status)
        except urllib.error.HTTPError as error:
            answer.append(error.code)
        except (OSError, ValueError):
            pass

    # In a thread, because the time limit of a socket does not cover looking up the host's name.
    thread = threading.Thread(target=question, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answer[0] if answer else None


def fetch(repo: str, revision: str | None) -> Path:
    """Download what transformers reads of a repository, and return its snapshot folder.

    Raises:
        ModelError: no such revision, no access, or the download broke off.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = [f for f in HfApi().list_repo_files(repo, revision=revision) if "/" not in f]
        wanted = [f for f in files if f.endswith(_KEPT) and not f.startswith("consolidated")]
        if not any(f.endswith(".safetensors") for f in wanted):
            wanted += [f for f in files if f.startswith("pytorch_model") and f.endswith(".bin")]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = repo if revision is None else f"{repo} at revision {revision!r}"
        raise ModelError(f"{what} could not be fetched from the hub: {first}") from error


@contextmanager
def offline() -> Iterator[None]:
    """Inside the block nothing asks the network: what is loaded there is already on this disk."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
