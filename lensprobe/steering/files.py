"""Steering vectors as files: safetensors, and the control vectors of llama.cpp and repeng.

A `.safetensors` file holds any vectors and all of their provenance. A `.gguf` control vector holds one
`[width]` vector a block, added to that block's output: `direction.L` belongs to block L counted from 0,
and there is none for block 0. What it cannot say by itself stands in keys that begin with `lensprobe.`,
which other readers skip.

Files that would have to be unpickled are refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, LensprobeError, OutputError
from ..models.gguf_index import check_index
from ..models.sites import DEFAULT_SITE
from ..results import writing
from .layered import SteeringVectors
from .vector import SteeringVector

__all__ = ["read", "write"]

FORMAT = 1
ARCHITECTURE = "controlvector"

Vectors = SteeringVector | SteeringVectors


def write(
    vectors: Sequence[SteeringVector],
    path: str | os.PathLike[str],
    *,
    single: bool,
    overwrite: bool,
) -> Path:
    """Write vectors in the format that the suffix names; `single` ones come back as one vector.

    Raises:
        OutputError: another suffix, a file that is there already, or that cannot be written.
        ArgumentError: the format cannot hold these vectors.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise OutputError(
            f"path={str(path)!r}: steering vectors are saved as {' or '.join(_WRITERS)}."
        )
    content = _WRITERS[suffix](vectors, single)
    with writing(path, overwrite=overwrite) as handle:
        handle.write(content)
    return Path(path)


def read(path: str | os.PathLike[str]) -> Vectors:
    """The vector or vectors of a `.safetensors` or `.gguf` file.

    Raises:
        OutputError: no such file, a damaged one, or one that holds no steering vectors.
    """
    path = Path(path)
    if not path.is_file():
        raise OutputError(f"path={str(path)!r}: no such file.")
    try:
        vectors, single = _READERS[path.suffix.lower()](path)
        return vectors[0] if single else SteeringVectors(vectors)
    except OutputError:
        raise
    except LensprobeError as error:
        raise OutputError(f"path={str(path)!r}: {error}") from error
    except Exception as error:
        # Damage can surface anywhere in the readers of the two formats.
        raise OutputError(
            f"path={str(path)!r} cannot be read as steering vectors, or is damaged ({error})."
        ) from error


# ---- safetensors -----------------------------------------------------------------------------


def _to_safetensors(vectors: Sequence[SteeringVector], single: bool) -> bytes:
    from safetensors.numpy import save

    tensors = {f"layer.{v.layer}": np.ascontiguousarray(v.values) for v in vectors}
    facts = {
        "format": FORMAT,
        "single": single,
        "site": vectors[0].site,
        "stack": vectors[0].stack,
        "provenance": {v.layer: v.provenance for v in vectors},
    }
    return save(tensors, metadata={"lensprobe.steering": _json(facts)})


def _from_safetensors(path: Path) -> tuple[list[SteeringVector], bool]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if "lensprobe.steering" not in metadata:
            raise OutputError(
                f"path={str(path)!r} holds the tensors {', '.join(list(file.keys())[:5])}, but not "
                "what lensprobe saves with a vector; load one and use lp.steering.from_tensor."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata["lensprobe.steering"])
    _check_format(facts["format"], path)
    vectors = [
        SteeringVector(
            values,
            layer := int(name.removeprefix("layer.")),
            facts["site"],
            facts["stack"],
            facts["provenance"][str(layer)],
        )
        for name, values in tensors.items()
    ]
    return vectors, facts["single"]


# ---- GGUF ------------------------------------------------------------------------------------


def _to_gguf(vectors: Sequence[SteeringVector], single: bool) -> bytes:
    from gguf import GGUFWriter

    for vector in vectors:
        _check_fits_gguf(vector)
    first = vectors[0].provenance
    with tempfile.TemporaryDirectory() as folder:
        # The library writes to a path only; what appears under the user's name is complete.
        path = Path(folder) / "vector.gguf"
        writer = GGUFWriter(path, ARCHITECTURE)
        hint = first.get("architecture") or first.get("model") or "unknown"
        writer.add_string(f"{ARCHITECTURE}.model_hint", str(hint))
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        writer.add_uint32("lensprobe.format", FORMAT)
        writer.add_bool("lensprobe.single", single)
        provenance = {v.layer: v.provenance for v in vectors}
        writer.add_string("lensprobe.provenance", _json(provenance))
        for vector in vectors:
            writer.add_tensor(f"direction.{vector.layer}", np.ascontiguousarray(vector.values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _check_fits_gguf(vector: SteeringVector) -> None:
    if vector.tokens is not None or vector.site != DEFAULT_SITE or vector.stack is not None:
        raise ArgumentError(
            f"a GGUF control vector holds one vector a block at {DEFAULT_SITE} of a decoder-only "
            f"model; this one is {vector!r}. Save it as .safetensors."
        )
    if not vector.layer:
        raise ArgumentError(
            "a GGUF control vector has no direction for layer 0; leave that layer out with "
            ".select(layers), or save as .safetensors."
        )


def _from_gguf(path: Path) -> tuple[list[SteeringVector], bool]:
    from gguf import GGMLQuantizationType, GGUFReader

    # The reader trusts every count in the file: one that lies keeps it busy for ever.
    check_index(path)
    reader = GGUFReader(path)
    facts: dict[str, Any] = {
        name: reader.fields[name].contents()
        for name in reader.fields
        if name.startswith(("general.", f"{ARCHITECTURE}.", "lensprobe."))
    }
    if facts.get("general.architecture") != ARCHITECTURE:
        raise OutputError(
            f"path={str(path)!r} holds {facts.get('general.architecture')!r}, no control vector; "
            "a model is loaded with lp.load."
        )
    _check_format(facts.get("lensprobe.format", FORMAT), path)
    known = json.loads(facts.get("lensprobe.provenance", "{}"))
    foreign = {"architecture": facts.get(f"{ARCHITECTURE}.model_hint"), "method": "GGUF file"}
    vectors = []
    for tensor in reader.tensors:
        if not tensor.name.startswith("direction."):
            continue
        if tensor.tensor_type not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            raise OutputError(f"path={str(path)!r}: {tensor.name} is {tensor.tensor_type.name}.")
        layer = int(tensor.name.removeprefix("direction."))
        made = known.get(str(layer), {**foreign, "file": path.name})
        vectors.append(SteeringVector(np.array(tensor.data), layer, provenance=made))
    return vectors, facts.get("lensprobe.single", len(vectors) == 1)


# ---- shared ----------------------------------------------------------------------------------


def _json(facts: Mapping[Any, Any]) -> str:
    return json.dumps(facts, default=str)


def _check_format(found: int, path: Path) -> None:
    if found > FORMAT:
        raise OutputError(
            f"path={str(path)!r} is in format {found}; this version of lensprobe reads {FORMAT}."
        )


_WRITERS: dict[str, Callable[[Sequence[SteeringVector], bool], bytes]] = {
    ".safetensors": _to_safetensors,
    ".gguf": _to_gguf,
}
_READERS: dict[str, Callable[[Path], tuple[list[SteeringVector], bool]]] = {
    ".safetensors": _from_safetensors,
    ".gguf": _from_gguf,
}
