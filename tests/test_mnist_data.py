"""Images of digits from files, rows and scikit-learn; everything that can be wrong with them."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

import lensprobe as lp
from lensprobe.errors import ArgumentError

RNG = np.random.default_rng(0)
IMAGES = {
    split: RNG.integers(0, 256, (n, 4, 5), dtype=np.uint8)
    for split, n in (("train", 30), ("t10k", 12))
}
LABELS = {split: (np.arange(len(images)) % 10).astype(np.uint8) for split, images in IMAGES.items()}


def idx(values):
    magic = {3: 2051, 1: 2049}[values.ndim]
    return struct.pack(f">I{values.ndim}I", magic, *values.shape) + values.tobytes()


def written(folder, *, zipped=False, dash="-", **changed):
    """The four files; `changed` replaces the bytes of one, `train_images=b"..."`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in IMAGES:
        for kind, values, dims in (("images", IMAGES[split], 3), ("labels", LABELS[split], 1)):
            data = changed.get(f"{split}_{kind}", idx(values))
            name = f"{split}-{kind}{dash}idx{dims}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.mark.parametrize(
    ("place", "zipped", "dash"), [(".", False, "-"), ("MNIST/raw", True, "-"), ("raw", False, ".")]
)
def test_idx_files_in_each_layout(tmp_path, place, zipped, dash):
    written(tmp_path / place, zipped=zipped, dash=dash)
    data = lp.mnist.load_digits_data(tmp_path)
    np.testing.assert_array_equal(data.images, IMAGES["train"].reshape(30, 20) / np.float32(255))
    np.testing.assert_array_equal(data.test_labels, LABELS["t10k"])
    assert data.shape == (4, 5) and data.images.dtype == np.float32
    assert data.of(3).tolist() == [3, 13, 23]
    assert len(lp.mnist.load_digits_data(tmp_path, limit=7).images) == 7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"train_images": idx(IMAGES["train"])[:-1]},
            "numbers and holds 599: it is truncated",
        ),
        ({"train_images": idx(IMAGES["train"]) + b"x"}, "there is more behind them"),
        ({"train_images": idx(IMAGES["train"])[:6]}, "no whole header"),
        ({"train_images": idx(IMAGES["train"])[:10]}, "no whole header"),
        ({"train_images": idx(LABELS["train"])}, "should hold images; it holds labels"),
        ({"t10k_labels": idx(IMAGES["t10k"])}, "should hold labels; it holds images"),
        ({"t10k_labels": b"\0\0\x0b\1" + idx(LABELS["t10k"])[4:]}, "its magic number is 2817"),
        ({"train_labels": idx(LABELS["t10k"])}, "30 train images and 12 labels"),
        ({"t10k_images": idx(IMAGES["t10k"][:, :3])}, "training images are (4, 5)"),
        (
            {"train_labels": idx(LABELS["train"] + 1)},
            "training labels should be 0 to 9; found [10]",
        ),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, changed, message):
    with pytest.raises(ArgumentError) as error:
        lp.mnist.load_digits_data(written(tmp_path, **changed))
    assert message in str(error.value)


def test_a_zipped_file_that_ends_early(tmp_path):
    path = written(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArgumentError, match="truncated or damaged"):
        lp.mnist.load_digits_data(tmp_path)


def test_a_folder_without_the_files(tmp_path):
    with pytest.raises(ArgumentError, match="there is no train-images-idx3-ubyte"):
        lp.mnist.load_digits_data(tmp_path)


def rows(split):
    return {"image": list(IMAGES[split]), "label": LABELS[split].tolist()}


def test_rows_from_anywhere(monkeypatch):
    """What `datasets` gives: columns by name, in 'train' and 'test'."""
    source = {"train": rows("train"), "test": rows("t10k")}
    data = lp.mnist.load_digits_data(source)
    np.testing.assert_array_equal(data.images, IMAGES["train"].reshape(30, 20) / np.float32(255))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"ylecun/mnist": source}[name])
    assert lp.mnist.load_digits_data("ylecun/mnist").name == "ylecun/mnist"
    with pytest.raises(ArgumentError, match="the hub did not give it"):
        lp.mnist.load_digits_data("ylecun/minst")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"train": rows("train")}, "'train' and 'test' are needed"),
        ({"train": {"image": []}, "test": {}}, "need an image and a label"),
        ({"train": {"image": [np.zeros((2, 2, 3))], "label": [1]}, "test": {}}, "not grey ones"),
        (
            {"train": rows("train"), "test": {"image": [np.zeros((2, 2))], "label": [1]}},
            "images of",
        ),
        (3, "source=3"),
    ],
)
def test_rows_that_do_not_do(source, message):
    with pytest.raises(ArgumentError) as error:
        lp.mnist.load_digits_data(source)
    assert message in str(error.value)


def test_the_digits_that_need_nothing():
    data = lp.mnist.load_digits_data()
    assert (data.shape, len(data.images), len(data.test_images)) == ((8, 8), 1297, 500)
    assert data.images.min() == 0 and data.images.max() == 1
    assert set(data.labels.tolist()) == set(range(10))
    with pytest.raises(ArgumentError, match="limit=0"):
        lp.mnist.load_digits_data(limit=0)
    with pytest.raises(ArgumentError, match="digit 9 does not occur"):
        lp.mnist.load_digits_data(limit=5).of(9)


def test_a_pair_that_does_not_occur_in_the_data():
    data = lp.mnist.load_digits_data(limit=5)
    with pytest.raises(ArgumentError, match=r"digit 9 of \(1, 9\) does not occur"):
        lp.mnist.study(lp.mnist.HookedMLP((64, 8, 10)), data, pairs=[(1, 9)])


@pytest.mark.slow
def test_mnist_itself(data_dir):
    """The recipe on the real images: the loss, the unedited row, and what the note says of 3 − 1."""
    data = lp.mnist.load_digits_data(data_dir / "mnist")
    assert len(data.images) == 60_000 and np.bincount(data.labels)[[0, 9]].tolist() == [5923, 5949]
    model = lp.mnist.HookedMLP()
    found = lp.mnist.train(model, data, target=0.09, progress=False)
    assert 0.085 <= found.summary()["loss"] <= 0.095
    study = lp.mnist.study(model, data, pairs=[(3, 1), (8, 1)], n=0)
    plain = study.plain.query("group == 'others' and measure == 'loss'")["value"]
    assert plain.min() > 0.07 and plain.max() < 0.11
    one = study.effects.query("positive == 3").set_index(["layer", "group", "measure"])
    for layer in range(5):
        assert one["value"][layer, "others", "loss"] > 20 * one["plain"][layer, "others", "loss"]
        assert one["change"][layer, "negative", "probability_positive"] > 0.5
        assert one["change"][layer, "negative", "probability_negative"] < -0.5
    curve = study.against_published()["value"]
    assert curve[0] < curve[1] < curve[3], "as in the note, later additions do more"
