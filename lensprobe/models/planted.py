"""The planted model: a small GPT-2 whose every weight, and so every answer, is known.

`folder()` returns an ordinary transformers folder (config, safetensors, fast byte-level tokenizer)
in the cache, building it on first use, about a second and without any download. `PLANTED` states
the answers: where the massive activation is, who writes, reads and erases it, and what the loss
is when it is scaled. See `docs/planted.md` for how.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lensprobe.errors import OutputError
from lensprobe.models._planted_bigrams import TEXT
from lensprobe.models._planted_design import (
    PLANTED,
    HeadKind,
    Planted,
    PlantedNeuron,
    SinkHead,
)
from lensprobe.models._planted_weights import planted_weights

__all__ = [
    "PLANTED",
    "TEXT",
    "HeadKind",
    "Planted",
    "PlantedNeuron",
    "SinkHead",
    "build",
    "folder",
]

BOS = "<|endoftext|>"
PAD = "<|pad|>"
_MANIFEST = "planted.json"
_FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    _MANIFEST,
}


def folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the planted model, built when it is missing, outdated or damaged.

    `cache` is the directory that holds it; by default `$LENSPROBE_CACHE`, else
    `$XDG_CACHE_HOME/lensprobe`, else `~/.cache/lensprobe`. The files are compared with their
    stored SHA-256 on every call. Two processes may call at once: each sees a whole folder.

    Raises `OutputError` when the folder has to be built and cannot be written.
    """
    path = _cache_root(cache) / "planted"
    return path if _is_intact(path) else _build(path, _is_ours(path))


def build(folder: str | os.PathLike[str]) -> Path:
    """Write the planted model to `folder`, replacing an older one, and return its path.

    The files are written beside it and moved into place whole, so no reader sees half a model.
    Two builds are equal bit for bit.

    Raises `OutputError` when the folder cannot be written, or holds anything else.
    """
    path = Path(folder).expanduser().absolute()
    return _build(path, replace=(path / _MANIFEST).exists())


def _build(path: Path, replace: bool) -> Path:
    with _as_output_error(path):
        if path.exists() and not replace and not _is_empty(path):
            raise FileExistsError(errno.EEXIST, "it holds something other than a planted model")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, not in the system's temporary folder: a rename across file systems
        # is a copy, and a copy can be seen half done.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".planted-") as scratch:
            fresh = Path(scratch, "fresh")
            fresh.mkdir()
            _write_files(fresh)
            _move_into_place(fresh, path, aside=Path(scratch, "old"))
    return path


def _cache_root(cache: str | os.PathLike[str] | None) -> Path:
    if cache is None:
        cache = os.environ.get("LENSPROBE_CACHE") or None
    if cache is None:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = Path(base, "lensprobe")
    return Path(cache).expanduser().absolute()


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"folder={str(path)!r} cannot be written for the planted model: "
            f"{error.strerror or error}. Give another folder, or set LENSPROBE_CACHE to a "
            "directory you may write to."
        ) from error


def _design_hash() -> str:
    """Changes with the design, so that a cache from another release is not taken for this one."""
    return hashlib.sha256(f"{PLANTED!r}{TEXT}".encode()).hexdigest()


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_intact(path: Path) -> bool:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["design"] == _design_hash() and all(
            _file_hash(path / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Whatever is wrong with the folder, the answer is the same: build it again.
        return False


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_ours(path: Path) -> bool:
    """Whether a folder in the cache holds nothing but files of ours, some perhaps cleaned away."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= _FILES


def _move_into_place(fresh: Path, path: Path, aside: Path) -> None:
    """Rename `fresh` to `path`; if another process was faster, keep its folder."""
    if path.exists() and not _is_intact(path):
        # Not found: another process is replacing the same folder and has just moved it away.
        with suppress(FileNotFoundError):
            path.rename(aside)
    try:
        fresh.rename(path)
    except OSError:
        if not _is_intact(path):
            raise


def _write_files(path: Path) -> None:
    _write_json(path / "config.json", _config())
    _write_json(path / "tokenizer_config.json", _tokenizer_config())
    _tokenizer().save(str(path / "tokenizer.json"))
    weights = save(planted_weights(PLANTED), metadata={"format": "pt"})
    (path / "model.safetensors").write_bytes(weights)
    files = {file.name: _file_hash(file) for file in sorted(path.iterdir())}
    manifest = {"version": PLANTED.version, "design": _design_hash(), "files": files}
    _write_json(path / _MANIFEST, manifest)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config() -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_embd": PLANTED.d_model,
        "n_layer": PLANTED.n_layers,
        "n_head": PLANTED.n_heads,
        "n_inner": PLANTED.d_mlp,
        "n_positions": PLANTED.n_ctx,
        "n_ctx": PLANTED.n_ctx,
        "vocab_size": PLANTED.d_vocab,
        "layer_norm_epsilon": PLANTED.eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": PLANTED.bos_token,
        "eos_token_id": PLANTED.bos_token,
        "pad_token_id": PLANTED.pad_token,
        # The unembedding is a bigram table, not the transposed embedding.
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": PLANTED.n_ctx,
        "bos_token": BOS,
        "eos_token": BOS,
        "unk_token": BOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: the id of a byte is its value."""
    vocab = {_byte_symbol(byte): byte for byte in range(256)}
    specials = {BOS: PLANTED.bos_token, PAD: PLANTED.pad_token}
    tokenizer = Tokenizer(models.BPE(vocab=vocab | specials, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return tokenizer


def _byte_symbol(byte: int) -> str:
    """The visible character that stands for a byte in GPT-2's vocabulary.

    Printable Latin-1 bytes stand for themselves; the 68 others take the code points from 256 on,
    in order.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in visible:
        return chr(byte)
    return chr(256 + sum(other not in visible for other in range(byte)))
