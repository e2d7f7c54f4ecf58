"""The massive-activation scan against a slow loop over single prompts, from the definition."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import RESIDUAL, close

import lensprobe as lp
from lensprobe import massive
from lensprobe.corpus import Corpus
from lensprobe.errors import ArgumentError, HookPointError, ModelError
from lensprobe.massive.kinds import is_delimiter
from lensprobe.massive.magnitudes import magnitudes
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.tokens import token_strings

TEXTS = [
    "Hello world, this is",
    "I",
    "The cat sat on the mat. And then, it went away.\nOnce more: hello, world!",
    "one, two, three, four, five, six, seven, eight, nine, ten. " * 3,
    "Hello",
]
# Low enough that random weights have massive activations, and not all the same ones everywhere.
LOW = {"threshold": 0.05, "ratio": 4.0}


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def windows_of(model, texts, **options):
    return [list(window.ids) for window in Corpus(adapter_for(model), texts, **options).windows()]


@torch.no_grad()
def loop(model, windows, site="resid_post", layers=None):
    """Float64 activations `[layer, pos, dim]` of each sequence, one prompt at a time."""
    adapter = adapter_for(model)
    layers = range(adapter.n_layers) if layers is None else layers
    names = [adapter.hook_name(site, layer) for layer in layers]
    found = []
    for ids in windows:
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=lambda n: n in names)
        found.append(np.stack([cache[name][0].flatten(1).double().numpy() for name in names]))
    return found


def lower_median(values):
    values = np.sort(values.reshape(-1))
    return values[(len(values) - 1) // 2]


def expected_layers(activations):
    rows = []
    for layer in range(len(activations[0])):
        sizes = [np.abs(one[layer]) for one in activations]
        top = np.array([np.sort(size.reshape(-1))[::-1][:3] for size in sizes])
        median = np.mean([lower_median(size) for size in sizes])
        for rank in range(3):
            mean = top[:, rank].mean()
            rows.append((layer, rank + 1, top[:, rank].max(), mean, median, mean / median))
    return pd.DataFrame(rows, columns=["layer", "rank", "value", "mean", "median", "ratio"])


def expected_hits(model, activations, windows, threshold, ratio):
    rows = []
    for sequence, (one, ids) in enumerate(zip(activations, windows, strict=True)):
        for layer, values in enumerate(one):
            least = ratio * lower_median(np.abs(values))
            for position, dim in np.argwhere(
                (np.abs(values) > threshold) & (np.abs(values) >= least)
            ):
                group = -1 if position == 0 else ids[position]
                rows.append(
                    (dim, group, layer, sequence, position, ids[position], values[position, dim])
                )
    columns = ["dim", "group", "layer", "sequence", "position", "id", "value"]
    return pd.DataFrame(rows, columns=columns)


def expected_findings(hits, tokenizer, sequences):
    rows = []
    for (dim, group), part in hits.groupby(["dim", "group"]):
        means = part.groupby("layer")["value"].mean()
        layer = means.abs().idxmax()
        at = part[part["layer"] == layer]["value"]
        first = part[["sequence", "id"]].drop_duplicates()["id"]
        token = first.value_counts().sort_index(ascending=True).idxmax()
        text = token_strings(tokenizer, [token])[0]
        fixed = part["position"].nunique() == 1
        rows.append(
            {
                "dim": dim,
                "position": part["position"].iloc[0] if fixed else -1,
                "token": text,
                "kind": "first" if group == -1 else "delimiter" if is_delimiter(text) else "other",
                "layer": layer,
                "first": part["layer"].min(),
                "last": part["layer"].max(),
                "value": at.mean(),
                "std": at.std(ddof=0),
                "share": part["sequence"].nunique() / sequences,
                "count": len(at),
            }
        )
    rows.sort(key=lambda r: (-abs(r["value"]), r["dim"], r["position"], r["token"]))
    return pd.DataFrame(rows)


def assert_frames(got, expected):
    """Equal labels and counts, numbers to the residual tolerance of their column."""
    got = got[expected.columns].reset_index(drop=True)
    for name in expected.columns:
        if name == "std":
            # Of equal values it is the rounding of the values.
            scale = np.abs(expected["value"]).max() if len(expected) else 0.0
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=RESIDUAL * scale)
        elif expected[name].dtype.kind == "f":
            close(got[name], expected[name], "residual")
        else:
            assert got[name].tolist() == expected[name].tolist(), name


# ---- against the loop -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
@pytest.mark.parametrize("length", [None, 12])
def test_layers_and_kinds_equal_the_loop(model, batch_tokens, length):
    scan = massive.scan(model, TEXTS, batch_tokens=batch_tokens, length=length)
    windows = windows_of(model, TEXTS, length=length)
    activations = loop(model, windows)
    assert_frames(scan.layers, expected_layers(activations))
    strings = [token_strings(model.tokenizer, ids) for ids in windows]
    for layer, rows in scan.kinds.groupby("layer"):
        sizes = {"first": [], "delimiter": [], "other": []}
        for one, texts in zip(activations, strings, strict=True):
            for position, text in enumerate(texts):
                kind = "first" if not position else "delimiter" if is_delimiter(text) else "other"
                sizes[kind].append(np.abs(one[layer, position]).max())
        assert rows["kind"].tolist() == list(sizes)
        assert rows["count"].tolist() == [len(values) for values in sizes.values()]
        close(rows["value"], [max(values) for values in sizes.values()], "residual")
        close(rows["mean"], [np.mean(values) for values in sizes.values()], "residual")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
def test_findings_and_trajectories_equal_the_loop(model, bos, batch_tokens):
    options = {"bos": bos, "length": 16}
    scan = massive.scan(model, TEXTS, batch_tokens=batch_tokens, **options, **LOW)
    windows = windows_of(model, TEXTS, **options)
    activations = loop(model, windows)
    hits = expected_hits(model, activations, windows, **LOW)
    expected = expected_findings(hits, model.tokenizer, len(windows))
    assert {"first", "other"} <= set(expected["kind"])
    assert_frames(scan.findings, expected)
    origins = np.stack([one[:, 0] for one in activations])
    for dim, rows in scan.trajectories.groupby("dim"):
        close(rows["value"], origins[:, :, dim].mean(0), "residual")
        scale = np.abs(origins).max()
        np.testing.assert_allclose(
            rows["std"], origins[:, :, dim].std(0), rtol=0, atol=RESIDUAL * scale
        )
        assert set(rows["count"]) == {len(windows)}
    dims = set(expected.loc[expected["kind"] == "first", "dim"])
    assert set(scan.trajectories["dim"]) == dims


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "attn.v", "mlp.post"])
def test_other_sites_and_some_layers(model, site):
    scan = massive.scan(model, TEXTS, site=site, layers=[-1, 1])
    last = adapter_for(model).n_layers - 1
    activations = loop(model, windows_of(model, TEXTS), site, [1, last])
    expected = expected_layers(activations)
    expected["layer"] = expected["layer"].map({0: 1, 1: last})
    assert_frames(scan.layers, expected)
    assert set(scan.layers["site"]) == {site}
    assert scan.landscape_layer == last


def test_the_landscape_is_the_first_text_at_the_strongest_layer(model):
    texts = [TEXTS[3] * 2, *TEXTS]
    scan = massive.scan(model, texts, batch_tokens=128, **LOW)
    windows = windows_of(model, texts)
    assert scan.landscape_layer == scan.findings["layer"].iloc[0]
    expected = loop(model, windows[:1])[0][scan.landscape_layer][:64]
    assert scan.landscape.dtype == np.float32
    close(scan.landscape, expected, "residual")
    assert scan.landscape_tokens == token_strings(model.tokenizer, windows[0][:64])


def test_batching_and_order_change_nothing(model):
    one = massive.scan(model, TEXTS, batch_tokens=1, **LOW)
    many = massive.scan(model, (text for text in TEXTS[::-1]), batch_tokens=4096, **LOW)
    for table in ("layers", "findings", "kinds", "nonfinite", "trajectories"):
        assert_frames(one.to_frame(table), many.to_frame(table))


# ---- the numbers of one layer -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_infinities_are_counted_and_enter_nothing(dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 6, 8, generator=generator) * 10).to(dtype)
    lengths = np.array([6, 5, 3, 1])
    x[0, 2, 3], x[0, 2, 4], x[1, 0, 0] = torch.inf, -torch.inf, torch.nan
    x[3, 0] = torch.nan
    # Pads hold anything at all.
    x[2, 4, 1], x[1, 5] = torch.nan, torch.inf
    got = magnitudes(x, lengths, threshold=15.0, ratio=2.0)
    assert got.nonfinite.tolist() == [1 + 8, 0, 2, 0, 0, 0]
    for row in range(3):
        real = x[row, : lengths[row]].double().numpy()
        size = np.abs(real)
        finite = size[np.isfinite(size)]
        np.testing.assert_array_equal(got.top[row], np.sort(finite)[::-1][:3])
        assert got.median[row] == lower_median(finite)
        broken = np.where(np.isfinite(size), size, -1).max(1)
        np.testing.assert_array_equal(got.token[row, : lengths[row]], broken)
        assert np.isnan(got.token[row, lengths[row] :]).all()
        massive_ones = np.argwhere((size > 15) & (size >= 2 * got.median[row]) & np.isfinite(size))
        mine = got.hits[:, 0] == row
        np.testing.assert_array_equal(got.hits[mine, 1:], massive_ones)
        np.testing.assert_array_equal(got.values[mine], real[tuple(massive_ones.T)])
    assert np.isnan(got.top[3]).all()
    assert np.isnan(got.median[3])


def test_the_median_is_torchs_and_the_thresholds_are_exclusive_and_inclusive():
    x = torch.tensor([[[1.0, -2.0, 3.0, -8.0]]])
    got = magnitudes(x, np.array([1]), threshold=3.0, ratio=4.0)
    assert got.median[0] == x.abs().median() == 2.0
    assert got.values.tolist() == [-8.0]
    assert not len(magnitudes(x, np.array([1]), threshold=8.0, ratio=4.0).hits)
    assert not len(magnitudes(x, np.array([1]), threshold=3.0, ratio=4.01).hits)


def half(model, dtype):
    model = copy.deepcopy(model).to(dtype)
    model.cfg.dtype = dtype
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(tiny_gpt2, dtype):
    model = half(tiny_gpt2, dtype)
    scan = massive.scan(model, TEXTS, batch_tokens=1)
    assert scan.provenance["dtype"] == str(dtype).removeprefix("torch.")
    assert_frames(scan.layers, expected_layers(loop(model, windows_of(model, TEXTS))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_overflow_poisons_nothing(tiny_gpt2, dtype):
    model = half(tiny_gpt2, dtype)

    def drive(activation, hook):
        push = torch.zeros_like(activation)
        push[..., 5] = 60000.0
        return activation + push

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", drive) for layer in (1, 2)]):
        scan = massive.scan(model, TEXTS, batch_tokens=64, layers=[0, 1, 2])
    infinite = dtype == torch.float16
    lengths = [len(window) for window in windows_of(model, TEXTS)]
    tokens = [sum(length > place for length in lengths) for place in range(max(lengths))]
    expected = [(2, place, count) for place, count in enumerate(tokens * infinite)]
    found = scan.nonfinite[["layer", "position", "count"]]
    assert list(found.itertuples(index=False, name=None)) == expected
    assert scan.summary()["nonfinite"] == (sum(lengths) if infinite else 0)
    assert np.isfinite(scan.layers[["value", "mean", "median"]]).all(axis=None)
    assert np.isfinite(scan.kinds.loc[scan.kinds["count"] > 0, ["value", "mean"]]).all(axis=None)
    assert scan.strongest.dim == 5
    # In float16 the second push goes past 65,504; what is left of that layer is its other numbers.
    assert scan.strongest.layers == ((1,) if infinite else (1, 2))
    values = scan.trajectories[scan.trajectories["dim"] == 5].set_index("layer")
    assert values["count"].tolist() == [len(TEXTS)] * 2 + [0 if infinite else len(TEXTS)]
    assert abs(values.loc[1, "value"] - 60000) < 300
    assert np.isnan(values.loc[2, "value"]) if infinite else values.loc[2, "value"] > 110000


# ---- known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        (".", True), (" ,", True), ('."', True), ("\n", True), (" \n\n", True), ("。", True),
        ("…", True), ("-", True), (" ", False), ("\t", False), ("", False), ("$", False),
        ("=", False), ("'s", False), ("a.", False), ("<s>", False), ("�", False),
    ],
)  # fmt: skip
def test_delimiters(token, answer):
    assert is_delimiter(token) is answer


def test_what_was_planted_is_found(planted):
    # The second value is 800 times the median: one by the letter of the rule, two at 100 times.
    for ratio, count in ((1000.0, 1), (100.0, 2)):
        scan = massive.scan(planted, TEXTS, ratio=ratio, batch_tokens=64)
        assert scan.findings["dim"].tolist() == list(PLANTED.dims[:count])
        close(scan.findings["value"], PLANTED.values[:count], "residual")
        close(scan.findings["std"], [0.0] * count)
        assert (scan.findings[["position", "first", "last"]] == [0, 1, 3]).all(axis=None)
        assert (scan.findings["share"] == 1).all()
        assert (scan.findings["count"] == len(TEXTS)).all()
        assert set(scan.findings["kind"]) == {"first"}
        assert scan.strongest.layers == (1, 2, 3)
        close(scan.findings["ratio"], np.divide(PLANTED.values[:count], PLANTED.median), "residual")
    close(scan.layers["median"], [PLANTED.median] * len(scan.layers))
    path = scan.trajectories[scan.trajectories["dim"] == PLANTED.dims[0]]["value"]
    close(path[1:4], [PLANTED.values[0]] * 3, "residual")
    assert path[[0, 4, 5]].abs().max() <= 1.01
    kinds = scan.kinds[scan.kinds["kind"] != "first"]
    close(kinds["value"], [PLANTED.median] * len(kinds))


# ---- the result -------------------------------------------------------------------------------


def test_a_finding_names_only_layers_that_were_read(planted):
    assert massive.scan(planted, TEXTS, layers=[1, 3, 5]).strongest.layers == (1, 3)


def test_the_result_is_saved_and_summed_up(model, tmp_path):
    scan = massive.scan(model, TEXTS, **LOW)
    again = lp.open(scan.save(tmp_path / "scan.zip"))
    assert again.tables == ("layers", "findings", "kinds", "nonfinite", "trajectories")
    for table in scan.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), scan.to_frame(table))
    np.testing.assert_array_equal(again.landscape, scan.landscape)
    assert again.strongest == scan.strongest == scan.at(0)
    assert scan.at(-1).dim == scan.findings["dim"].iloc[-1]
    facts = scan.summary()
    assert facts["sequences"] == len(TEXTS)
    assert facts["dim"] == scan.strongest.dim
    assert scan.provenance["complete"] is True
    assert scan.provenance["thresholds"] == {"magnitude": 0.05, "ratio": 4.0}
    assert "sun2024massive" in scan.cite()


def test_nothing_found_is_empty_tables_with_their_columns(model, tmp_path):
    scan = massive.scan(model, TEXTS[:2])
    assert scan.findings.empty
    assert scan.trajectories.empty
    assert {"dim", "share", "ratio"} <= set(scan.findings.columns)
    assert scan.findings["dim"].dtype.kind == "i"
    assert scan.findings["value"].dtype.kind == "f"
    assert scan.landscape_layer == adapter_for(model).n_layers - 1
    assert scan.summary()["findings"] == 0
    lp.open(scan.save(tmp_path / "scan.zip"))
    with pytest.raises(ArgumentError, match="no massive activation was found"):
        _ = scan.strongest


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"site": "resid"}, HookPointError, "resid_post"),
        ({"site": "attn.pattern"}, ArgumentError, r"lp\.sinks\.scan"),
        ({"layers": [99]}, ArgumentError, "layers=99"),
        ({"layers": []}, ArgumentError, "layers is empty"),
        ({"layers": 1.5}, ArgumentError, "layers"),
        ({"threshold": True}, ArgumentError, "threshold=True"),
        ({"threshold": -1}, ArgumentError, "threshold=-1"),
        ({"threshold": float("nan")}, ArgumentError, "threshold=nan"),
        ({"ratio": "big"}, ArgumentError, "ratio='big'"),
        ({"length": 10**6}, ArgumentError, "context"),
        ({"batch_tokens": 0}, ArgumentError, "batch_tokens=0"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(model, options, error, message):
    def texts():
        raise AssertionError("a text was read")
        yield ""

    with pytest.raises(error, match=message):
        massive.scan(model, texts(), **options)


def test_something_else_than_a_model(model):
    with pytest.raises(ModelError, match="not a TransformerLens model"):
        massive.scan(torch.nn.Linear(2, 2), TEXTS)
