"""The published values of GPT-2 small, wherever its weights are found; the planted ones everywhere.

Published (Sun et al. 2402.17762 and the logs of its code, fp16, 30 sequences): value of dimension 447
at position 0 by layer, the neurons that write it and the layer that erases it. Values at position 0
hardly depend on the text, so a few passages do; tolerances are stated beside each value.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import lensprobe as lp
from lensprobe.errors import LensprobeError
from lensprobe.models.planted import PLANTED
from lensprobe.texts import default_texts

TEXTS = [text[:240] for text in default_texts()[:4]]


class Known(NamedTuple):
    """What is published, or planted."""

    name: str
    dim: int
    second: int
    writer: str
    eraser: tuple[str, int]
    values: dict[int, float]
    tolerance: float
    neurons: dict[int, tuple[float, float]]
    neuron_tolerance: float
    neuron_share: float
    zero: tuple[float, float]


GPT2 = Known(
    name="gpt2",
    dim=447,
    second=138,
    writer="mlp 2",
    eraser=("attn", 11),
    values={2: 2475, 3: 2648, 4: 2795, 5: 2892, 6: 2949, 7: 2985, 8: 3007, 9: 3019, 10: 3021},
    # Other texts, another first token, float32 instead of float16.
    tolerance=0.03,
    neurons={666: (62.9, 15.1), 1825: (59.0, 14.5), 3034: (19.7, 12.7)},
    neuron_tolerance=0.05,
    neuron_share=0.88,
    # Perplexity 30.22 → 30.21 in bfloat16.
    zero=(0.0, 0.02),
)
CALIBRATION = Known(
    name="planted",
    dim=PLANTED.dims[0],
    second=PLANTED.dims[1],
    writer=f"mlp {PLANTED.writer_layer}",
    eraser=("mlp", 4),
    values={1: 3000, 2: 3000, 3: 3000},
    tolerance=1e-5,
    neurons={11: (80, 25), 42: (60, 15), 97: (20, 5)},
    neuron_tolerance=1e-4,
    neuron_share=1.0,
    zero=(float(np.log(2)), 0.02),
)


@pytest.fixture(scope="module", params=[CALIBRATION, GPT2], ids=lambda known: known.name)
def subject(request) -> tuple[Any, Known]:
    known = request.param
    try:
        return lp.load(known.name, device="cpu"), known
    except LensprobeError as error:
        pytest.skip(f"{known.name}'s weights are not here: {str(error).splitlines()[0]}")


def test_the_coordinate_is_found(subject):
    model, known = subject
    scan = lp.massive.scan(model, TEXTS, ratio=100, progress=False)
    assert (scan.strongest.dim, scan.strongest.position) == (known.dim, 0)
    assert known.second in scan.findings.query("position == 0")["dim"].tolist()


def test_its_value_by_layer(subject):
    model, known = subject
    life = lp.massive.trajectory(model, TEXTS, dim=known.dim, progress=False)
    after = life.values.query("site == 'resid_post'").set_index("layer")["value"]
    for layer, value in known.values.items():
        assert after[layer] == pytest.approx(value, rel=known.tolerance), layer
    death = life.stages.set_index("kind").loc["death"]
    assert (death["component"], death["first"]) == known.eraser


def test_its_neurons(subject):
    model, known = subject
    layer = min(known.values)
    parts = lp.massive.anatomy(model, TEXTS, dim=known.dim, layer=layer, progress=False)
    assert parts.summary()["writer"] == known.writer
    top = parts.neurons.query(f"layer == {layer}").head(3).set_index("neuron")
    assert set(top.index) == set(known.neurons)
    for neuron, (activation, weight) in known.neurons.items():
        row = top.loc[neuron]
        assert row["activation"] == pytest.approx(activation, rel=known.neuron_tolerance)
        # Published without its sign.
        assert abs(row["weight"]) == pytest.approx(weight, rel=known.neuron_tolerance)
    written = parts.layers.set_index(["component", "layer"])["value"]["mlp", layer]
    assert top["value"].sum() / written == pytest.approx(known.neuron_share, abs=0.03)


def test_what_zero_costs(subject):
    model, known = subject
    layer, (change, allowed) = min(known.values), known.zero
    gone = lp.massive.ablate(
        model, TEXTS, dim=known.dim, layer=layer, method=["zero"], seed=0, progress=False
    )
    assert gone.effect("loss", "zero")["change"] == pytest.approx(change, abs=allowed)


def test_nearly_every_query_answers(subject):
    model, known = subject
    pull = lp.massive.bos_pull(model, TEXTS, dim=known.dim, seed=0, progress=False)
    share = pull.layers.query("kind == 'dim'").set_index("layer")["share"]
    if known is GPT2:
        assert share.loc[4:11].min() > 0.8 and share.loc[:2].min() < 0.8
    else:
        assert share.loc[2:4].tolist() == pytest.approx([3 / 12] * 3)
