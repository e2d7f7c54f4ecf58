"""Steering vectors as files: what is written comes back, and what is no vector is refused."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import lensprobe as lp
from lensprobe.errors import ArgumentError, OutputError
from lensprobe.steering import SteeringVector, SteeringVectors

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MADE = {"model": "gpt2", "architecture": "gpt2", "method": "mean", "notes": ["a"], "x": {"y": 0.5}}


def vector(layer=3, width=8, seed=0, **options):
    return SteeringVector(np.random.default_rng(seed).normal(size=width), layer, **options)


@settings(max_examples=30)
@given(st.data())
def test_any_vector_comes_back_from_safetensors(tmp_path_factory, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=6))
    before = SteeringVector(
        data.draw(hnp.arrays(np.float32, shape, elements=NUMBERS)),
        data.draw(st.integers(0, 200)),
        data.draw(st.sampled_from(["resid_pre", "resid_mid", "resid_post", "attn.v"])),
        data.draw(st.sampled_from([None, "encoder", "decoder"])),
        {"model": data.draw(st.text()), "count": data.draw(st.integers())},
    )
    path = tmp_path_factory.mktemp("vectors") / "one.safetensors"
    after = lp.open(before.save(path))
    assert type(after) is SteeringVector
    np.testing.assert_array_equal(after.values, before.values)
    for name in ("layer", "site", "stack", "provenance"):
        assert getattr(after, name) == getattr(before, name)


@settings(max_examples=20)
@given(st.data())
def test_any_vectors_come_back_from_gguf(tmp_path_factory, data):
    layers = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True))
    width = data.draw(st.integers(1, 40))
    rows = hnp.arrays(np.float32, width, elements=NUMBERS)
    before = SteeringVectors(
        [SteeringVector(data.draw(rows), n, provenance={**MADE, "n": n}) for n in layers]
    )
    path = tmp_path_factory.mktemp("vectors") / "some.gguf"
    after = lp.open(before.save(path))
    assert type(after) is SteeringVectors and after.layers == before.layers
    for layer in layers:
        np.testing.assert_array_equal(after[layer].values, before[layer].values)
        assert after[layer].provenance == before[layer].provenance


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_one_and_a_mapping_of_one_stay_apart(tmp_path, suffix):
    one = vector(provenance=MADE)
    assert type(lp.open(one.save(tmp_path / f"a.{suffix}"))) is SteeringVector
    assert type(lp.open(SteeringVectors([one]).save(tmp_path / f"b.{suffix}"))) is SteeringVectors


def test_a_mapping_comes_back_from_safetensors(tmp_path):
    before = SteeringVectors([vector(n, provenance={**MADE, "n": n}) for n in (5, 0, 2)])
    after = lp.open(before.save(tmp_path / "x.safetensors"))
    assert after.layers == (0, 2, 5)
    assert [after[n].provenance["n"] for n in after] == [0, 2, 5]


def test_the_file_is_what_llama_cpp_and_repeng_read(tmp_path):
    """By gguf's own reader: names and types as in llama.cpp's loader and repeng's import_gguf."""
    vectors = SteeringVectors([vector(n, provenance=MADE) for n in (1, 4)])
    reader = GGUFReader(vectors.save(tmp_path / "v.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "gpt2"
    assert fields["controlvector.layer_count"] == 2
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert set(found) == {"direction.1", "direction.4"}
    for layer in (1, 4):
        tensor = found[f"direction.{layer}"]
        assert tensor.tensor_type.name == "F32" and tensor.shape.tolist() == [8]
        np.testing.assert_array_equal(tensor.data, vectors[layer].values)


ONES = np.ones(4, np.float32)


def foreign(path, architecture="controlvector", tensors=(("direction.2", ONES),)):
    writer = GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", len(tensors))
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_control_vector_of_another_program_is_read(tmp_path):
    one = lp.open(foreign(tmp_path / "one.gguf"))
    assert (one.layer, one.site, one.values.tolist()) == (2, "resid_post", [1.0] * 4)
    assert one.provenance["architecture"] == "llama"
    assert "model" not in one.provenance  # nothing to warn about when it is added
    halves = [(f"direction.{n}", np.full(4, n, np.float16)) for n in (1, 7)]
    some = lp.open(foreign(tmp_path / "some.gguf", tensors=halves))
    assert some.layers == (1, 7) and some[7].values.tolist() == [7.0] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: vector(0), "no direction for layer 0"),
        (lambda: vector(site="resid_pre"), "one vector a block at resid_post"),
        (lambda: vector(width=(2, 4)), "one vector a block"),
        (lambda: vector(stack="encoder"), "decoder-only"),
    ],
)
def test_gguf_holds_no_other_vectors(tmp_path, wrong, message):
    with pytest.raises(ArgumentError, match=message):
        wrong().save(tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())
    assert lp.open(wrong().save(tmp_path / "v.safetensors")).values.shape == wrong().values.shape


def test_nothing_is_overwritten_unasked(tmp_path):
    path = vector(seed=1).save(tmp_path / "v.safetensors")
    with pytest.raises(OutputError, match="exists already"):
        vector(seed=2).save(path)
    vector(seed=2).save(path, overwrite=True)
    np.testing.assert_array_equal(lp.open(path).values, vector(seed=2).values)
    assert [p.name for p in tmp_path.iterdir()] == ["v.safetensors"]


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"saved as \.safetensors or \.gguf"):
        vector().save(tmp_path / "v.npz")


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "pkl", "PT"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    if suffix == "pt":
        torch.save(torch.ones(3), path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(OutputError, match=r"a \.\w+ file is a pickle"):
        lp.open(path)


class Bomb:
    """Unpickling this ends the test run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"", "cannot be read"),
        ("a.safetensors", struct.pack("<Q", 2**60) + b"{}", "cannot be read"),
        ("a.gguf", b"GGUF", "cannot be read"),
        ("a.gguf", b"\x80\x04N.", "cannot be read"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=message):
        lp.open(tmp_path / name)


def test_every_truncation_is_noticed(tmp_path):
    for name in ("v.gguf", "v.safetensors"):
        whole = vector(provenance=MADE).save(tmp_path / name).read_bytes()
        for keep in range(0, len(whole) - 1, 37):
            (tmp_path / name).write_bytes(whole[:keep])
            with pytest.raises(OutputError):
                lp.open(tmp_path / name)


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(OutputError, match="no such file"):
        lp.open(tmp_path / "nothing.gguf")
    with pytest.raises(OutputError, match=r"'llama'.*lp\.load"):
        lp.open(foreign(tmp_path / "model.gguf", architecture="llama"))
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "sae.safetensors")
    with pytest.raises(OutputError, match=r"tensors w.*from_tensor"):
        lp.open(tmp_path / "sae.safetensors")
    with pytest.raises(OutputError, match="NaN"):
        lp.open(
            foreign(
                tmp_path / "nan.gguf", tensors=[("direction.1", np.full(4, np.nan, np.float32))]
            )
        )
    with pytest.raises(OutputError, match="one or more"):
        lp.open(foreign(tmp_path / "none.gguf", tensors=[("other", ONES)]))


def test_a_later_format_is_refused(tmp_path, monkeypatch):
    from lensprobe.steering import files

    monkeypatch.setattr(files, "FORMAT", 2)
    for name in ("v.gguf", "v.safetensors"):
        vector(provenance=MADE).save(tmp_path / name)
    monkeypatch.undo()
    for name in ("v.gguf", "v.safetensors"):
        with pytest.raises(OutputError, match="format 2"):
            lp.open(tmp_path / name)
