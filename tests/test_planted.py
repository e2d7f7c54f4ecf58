"""The planted model against its own stated answers, in plain transformers."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lensprobe.models.planted as planted
from lensprobe.errors import ArgumentError, LensprobeError, ModelError, OutputError
from lensprobe.models._legacy import gpt2_folder_to_hooked
from lensprobe.models.planted import PLANTED

DIMS = list(PLANTED.dims)
ENGLISH = "The reader asked a question, and the answer was written down twice. Was it the same?"
DOCS = Path(__file__).parent.parent / "docs" / "planted.md"

few = settings(max_examples=12, deadline=None, derandomize=True)
token = st.integers(0, PLANTED.d_vocab - 1)
sequence = st.lists(token, min_size=2, max_size=48)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.folder(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


@contextmanager
def scaled(model: Any, factor: Any, dim: int = PLANTED.dims[0]) -> Iterator[None]:
    """Multiply one coordinate at position 0 as it leaves the writer's block."""

    def edit(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        scale = torch.ones_like(output)
        first = torch.zeros_like(output, dtype=torch.bool)
        first[:, PLANTED.position, dim] = True
        return output * torch.where(first, factor, scale)

    handle = model.transformer.h[PLANTED.writer_layer].register_forward_hook(edit)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def run(model: Any, tokens: Any, factor: float = 1.0, dim: int = PLANTED.dims[0]) -> Any:
    with scaled(model, factor, dim):
        return model(
            torch.as_tensor(tokens).reshape(-1, np.shape(tokens)[-1]),
            output_hidden_states=True,
            output_attentions=True,
        )


def mean_attention(output: Any, layer: int, head: int) -> float:
    """The mean over queries of the attention to position 0."""
    return output.attentions[layer][:, head, :, 0].mean().item()


def random_tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length)


@functools.cache
def english(bos: bool = True) -> np.ndarray:
    return np.array([PLANTED.bos_token] * bos + list(ENGLISH.encode()))


def model_losses(model: Any, tokens: np.ndarray, factor: Any = 1.0) -> torch.Tensor:
    with scaled(model, factor):
        logits = model(torch.as_tensor(tokens)[None]).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.as_tensor(tokens[1:]), reduction="none")


class TestResidual:
    @few
    @given(tokens=sequence)
    def test_value_stands_between_writer_and_eraser_at_position_0_only(
        self, model: Any, tokens: list[int]
    ) -> None:
        states = run(model, tokens).hidden_states
        for layer in range(-1, PLANTED.n_layers - 1):
            state = states[layer + 1][0].numpy()
            stands = PLANTED.writer_layer <= layer < PLANTED.eraser_layer
            wanted = PLANTED.values if stands else (0.0, 0.0)
            np.testing.assert_allclose(state[0, DIMS], wanted, rtol=1e-6, atol=0.01)
            others = np.delete(state[0], DIMS)
            assert max(np.abs(state[1:]).max(), np.abs(others).max()) <= 1 + 1e-5
            assert np.abs(state[:, DIMS])[1:].max(initial=0.0) < 1e-5

    def test_every_token_triggers_it(self, model: Any) -> None:
        tokens = np.array([[first, 32] for first in range(PLANTED.d_vocab)])
        state = run(model, tokens).hidden_states[PLANTED.writer_layer + 1][:, :, DIMS].numpy()
        wanted = np.broadcast_to(PLANTED.values, (PLANTED.d_vocab, 2))
        np.testing.assert_allclose(state[:, 0], wanted, rtol=1e-6)
        assert np.abs(state[:, 1]).max() < 1e-5

    def test_median_and_norm_are_stated(self, model: Any) -> None:
        for state in run(model, english()).hidden_states[:-1]:
            assert np.median(np.abs(state[0].numpy())) == PLANTED.median
            norms = np.linalg.norm(state[0, 1:].numpy(), axis=-1)
            np.testing.assert_allclose(norms, PLANTED.norm, rtol=1e-5)

    def test_only_447_is_massive_by_the_thousandfold_rule(self) -> None:
        big, second = PLANTED.values
        assert big > 100
        assert big >= 1000 * PLANTED.median
        assert second > 100
        assert second < 1000 * PLANTED.median

    def test_hook_points_where_it_stands(self) -> None:
        hooks = PLANTED.residual_hooks
        assert hooks[0] == "blocks.1.hook_resid_post"
        assert hooks[-1] == "blocks.4.hook_resid_mid"
        assert len(hooks) == 9
        assert PLANTED.plateau_layers == (2, 3, 4)


class TestNeurons:
    @pytest.mark.parametrize("side", ["writers", "erasers"])
    def test_listed_neurons_do_all_of_it(self, model: Any, side: str) -> None:
        units = getattr(PLANTED, side)
        assert {unit.layer for unit in units} == {getattr(PLANTED, f"{side[:-1]}_layer")}
        mlp = model.transformer.h[units[0].layer].mlp
        seen: list[torch.Tensor] = []
        handle = mlp.act.register_forward_hook(lambda m, a, out: seen.append(out[0]))
        run(model, english())
        handle.remove()

        at_first, elsewhere = seen[0][0].numpy(), seen[0][1:].numpy()
        columns = [unit.neuron for unit in units]
        np.testing.assert_allclose(
            at_first[columns], [u.activation for u in units], rtol=2e-6, atol=1e-4
        )
        assert np.abs(np.delete(at_first, columns)).max() == 0
        assert np.abs(elsewhere).max() < 1e-4
        weights = mlp.c_proj.weight.detach().numpy()[columns][:, DIMS]
        np.testing.assert_array_equal(weights, [u.weights for u in units])

    def test_no_other_layer_has_a_neuron(self, model: Any) -> None:
        for layer, block in enumerate(model.transformer.h):
            weights = torch.cat([p.flatten() for p in block.mlp.parameters()])
            planted_here = layer in (PLANTED.writer_layer, PLANTED.eraser_layer)
            assert bool(weights.any()) == planted_here

    def test_contributions_add_up_to_the_values(self) -> None:
        written = np.sum([unit.contribution for unit in PLANTED.writers], axis=0)
        erased = np.sum([unit.contribution for unit in PLANTED.erasers], axis=0)
        np.testing.assert_array_equal(written, PLANTED.values)
        np.testing.assert_array_equal(erased, -np.array(PLANTED.values))

    @pytest.mark.parametrize("factor", [0.0, 0.05, 0.5, 1.0, 2.0, 4.0, -1.0])
    def test_leftover_behind_the_eraser(self, model: Any, factor: float) -> None:
        state = run(model, english(), factor).hidden_states[PLANTED.eraser_layer + 1]
        big, second = state[0, 0, DIMS].tolist()
        assert big == pytest.approx(PLANTED.leftover(factor), rel=1e-5, abs=0.01)
        assert second == pytest.approx(0, abs=0.01)


class TestHeads:
    @pytest.mark.parametrize(
        ("length", "factor"),
        [(64, 0.0), (64, 0.05), (64, 0.5), (64, 1.0), (64, 2.0), (1024, 0.05), (1024, 1.0)],
    )
    def test_sink_heads_follow_the_closed_form(
        self, model: Any, length: int, factor: float
    ) -> None:
        output = run(model, random_tokens(length), factor)
        for sink in PLANTED.sink_heads:
            wanted = PLANTED.attention(sink.strength, factor, length)
            pattern = output.attentions[sink.layer][0, sink.head, :, 0].numpy()
            np.testing.assert_allclose(pattern, wanted, atol=2e-5)
            if factor >= 1:
                assert pattern.mean() > 0.8

    @few
    @given(tokens=sequence)
    def test_and_whatever_the_tokens(self, model: Any, tokens: list[int]) -> None:
        output = run(model, tokens)
        for sink in PLANTED.sink_heads:
            wanted = PLANTED.mean_attention(sink.strength, 1.0, len(tokens))
            assert mean_attention(output, sink.layer, sink.head) == pytest.approx(wanted, abs=1e-5)

    def test_one_head_in_eight_sinks(self, model: Any) -> None:
        output = run(model, np.stack([random_tokens(64, seed) for seed in range(4)]))
        sinks = {
            (layer, head)
            for layer in range(PLANTED.n_layers)
            for head in range(PLANTED.n_heads)
            if mean_attention(output, layer, head) > 0.3
        }
        assert sinks == {(sink.layer, sink.head) for sink in PLANTED.sink_heads}
        assert len(sinks) * 8 == PLANTED.n_layers * PLANTED.n_heads

    def test_the_other_heads_do_what_their_kind_says(self, model: Any) -> None:
        length = 64
        output = run(model, random_tokens(length))
        bounds = {
            "uniform": PLANTED.uniform_attention(length),
            "twin": PLANTED.uniform_attention(length),
            "previous": 2 / length,
            "self": 1 / length,
        }
        for layer in range(PLANTED.n_layers):
            for head in range(PLANTED.n_heads):
                kind = PLANTED.kind(layer, head)
                pattern = output.attentions[layer][0, head].numpy()
                if kind != "sink":
                    assert pattern[:, 0].mean() < bounds[kind] + 1e-4
                if kind == "uniform":
                    assert pattern[-1] == pytest.approx(1 / length, rel=1e-5)
                elif kind == "previous":
                    assert np.diag(pattern, -1)[1:].min() > 0.999
                elif kind == "self":
                    assert np.diag(pattern).min() > 0.999

    def test_clocks_hold_to_the_end_of_the_context(self, model: Any) -> None:
        output = run(model, random_tokens(PLANTED.n_ctx))
        previous = output.attentions[0][0, 4].numpy()
        assert PLANTED.kind(0, 4) == "previous"
        assert np.diag(previous, -1).min() > 0.999

    def test_zeroing_447_stops_them_and_zeroing_138_does_not(self, model: Any) -> None:
        tokens = random_tokens(64)
        without_447 = run(model, tokens, 0.0, dim=PLANTED.dims[0])
        without_138 = run(model, tokens, 0.0, dim=PLANTED.dims[1])
        for sink in PLANTED.sink_heads:
            stopped = mean_attention(without_447, sink.layer, sink.head)
            assert stopped == pytest.approx(PLANTED.uniform_attention(64), abs=1e-5)
            assert mean_attention(without_138, sink.layer, sink.head) > 0.98

    def test_zeroing_the_query_bias_stops_them(self, model: Any) -> None:
        sink = PLANTED.sink_heads[0]
        bias = model.transformer.h[sink.layer].attn.c_attn.bias
        before = bias.detach().clone()
        try:
            with torch.no_grad():
                bias[: PLANTED.d_model] = 0
            output = run(model, random_tokens(64))
        finally:
            with torch.no_grad():
                bias.copy_(before)
        stopped = mean_attention(output, sink.layer, sink.head)
        assert stopped == pytest.approx(PLANTED.uniform_attention(64), abs=1e-5)

    def test_twin_behind_the_eraser_sinks_on_what_factor_2_leaves(self, model: Any) -> None:
        before, behind = PLANTED.twin_heads
        output = run(model, random_tokens(64), factor=2.0)
        uniform = PLANTED.uniform_attention(64)
        assert mean_attention(output, behind.layer, behind.head) > 0.99
        assert mean_attention(output, before.layer, before.head) == pytest.approx(uniform)


def losses_by_hand(tokens: np.ndarray, factor: float) -> np.ndarray:
    """The loss as `docs/planted.md` states it, written out once more from its numbers."""
    d, vocab, t = 768, 258, np.arange(len(tokens) - 1)

    def norm(a: float, b: float) -> float:
        return np.sqrt((a**2 + b**2 + 576) / d - ((a + b) / d) ** 2 + 1e-5)

    g = factor * norm(3000, 800) / norm(3000 * factor, 800)
    strengths = np.arange(8, 12.5, 0.5)[:, None]
    attention = np.exp(strengths * g) / (np.exp(strengths * g) + t)
    z = np.log(vocab + 1) * (1 - (attention * g).mean(axis=0))
    logits = PLANTED.bigrams[tokens[:-1]].copy()
    logits[:, 126] += z
    logits[0] *= norm(0, 0) / norm(3000 * (factor - g), 0)
    return np.log(np.exp(logits).sum(axis=1)) - logits[t, tokens[1:]]


class TestLoss:
    @few
    @given(
        tokens=st.lists(token, min_size=2, max_size=64).map(np.array),
        factor=st.floats(0, 4),
    )
    def test_oracle_is_the_written_out_formula(self, tokens: np.ndarray, factor: float) -> None:
        np.testing.assert_allclose(
            PLANTED.losses(tokens, factor), losses_by_hand(tokens, factor), rtol=1e-12, atol=1e-12
        )

    @settings(few, max_examples=25)
    @given(
        tokens=st.lists(token, min_size=2, max_size=64).map(np.array),
        factor=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0, 1.1, 2.0, 4.0]),
    )
    def test_model_has_the_loss_of_the_oracle(
        self, model: Any, tokens: np.ndarray, factor: float
    ) -> None:
        losses = model_losses(model, tokens, factor).detach().numpy()
        np.testing.assert_allclose(losses, PLANTED.losses(tokens, factor), atol=1e-4)

    @pytest.mark.parametrize("bos", [True, False])
    @pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 2.0])
    def test_mean_loss_of_english(self, model: Any, bos: bool, factor: float) -> None:
        loss = model_losses(model, english(bos), factor).mean().item()
        assert loss == pytest.approx(PLANTED.loss(english(bos), factor), abs=1e-5)

    def test_long_context(self, model: Any) -> None:
        tokens = random_tokens(PLANTED.n_ctx)
        for factor in (0.0, 1.0):
            losses = model_losses(model, tokens, factor).detach().numpy()
            np.testing.assert_allclose(losses, PLANTED.losses(tokens, factor), atol=1e-4)

    def test_stopping_the_sinks_costs_one_bit_a_token(self, model: Any) -> None:
        tokens = english()
        assert PLANTED.mumble_token not in tokens
        bigram = np.log(PLANTED.d_vocab) - PLANTED.bigrams[tokens[:-1], tokens[1:]]
        stopped = model_losses(model, tokens, 0.0).detach().numpy()
        np.testing.assert_allclose(stopped - bigram, np.log(2), atol=1e-4)
        sinking = model_losses(model, tokens, 1.0).detach().numpy()
        assert np.abs(sinking - bigram).max() < 1e-3

    @pytest.mark.parametrize("bos", [True, False])
    @pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 2.0])
    def test_gradient(self, model: Any, bos: bool, factor: float) -> None:
        log_factor = torch.tensor(np.log(factor), dtype=torch.float64, requires_grad=True)
        loss = model_losses(model, english(bos), log_factor.exp().float()).mean()
        (slope,) = torch.autograd.grad(loss, log_factor)
        # Without BOS the loss at position 0 is so sharp a function of the leftover at factor 1
        # that the leftover's rounding, 5e-4 beside 3000, shows in its slope.
        slack = 1e-6 if bos else 1e-4
        wanted = PLANTED.loss_slope(english(bos), factor)
        assert slope.item() == pytest.approx(wanted, rel=1e-3, abs=slack)

    def test_the_second_value_makes_the_factor_visible(self) -> None:
        assert PLANTED.share(0.0) == 0
        assert PLANTED.share(1.0) == 1
        assert PLANTED.share(0.15) == pytest.approx(0.5, abs=0.02)
        assert PLANTED.share(1e6) == pytest.approx(1.035, abs=0.0005)
        assert PLANTED.spread(*PLANTED.values) == pytest.approx(111.930, abs=5e-4)

    def test_slope_is_the_derivative_of_the_loss(self) -> None:
        tokens, step = english(), 1e-5
        for factor in (0.05, 0.5, 1.0, 2.0):
            up, down = (PLANTED.loss(tokens, factor * np.exp(s)) for s in (step, -step))
            assert PLANTED.loss_slope(tokens, factor) == pytest.approx(
                (up - down) / (2 * step), rel=1e-4, abs=1e-8
            )

    def test_raising_the_value_lowers_the_loss(self) -> None:
        assert PLANTED.loss_slope(english(), 1.0) < 0

    @pytest.mark.parametrize("tokens", [[], [65], [[65, 66]], [65] * 1025])
    def test_nothing_to_predict(self, tokens: list[int]) -> None:
        with pytest.raises(ArgumentError, match="tokens has shape"):
            PLANTED.losses(np.array(tokens, dtype=int))


class TestLanguage:
    def test_logits_are_the_bigram_table(self, model: Any) -> None:
        tokens = np.arange(PLANTED.d_vocab)[:, None]
        logits = run(model, tokens).logits[:, 0].numpy()
        np.testing.assert_allclose(logits, PLANTED.bigrams, atol=1e-4)

    def test_table_is_normalised_and_english(self) -> None:
        np.testing.assert_allclose(np.exp(PLANTED.bigrams).sum(axis=1), PLANTED.d_vocab)
        assert chr(PLANTED.bigrams[ord("q")].argmax()) == "u"
        assert chr(PLANTED.bigrams[ord("h")].argmax()) == "e"
        assert np.abs(PLANTED.bigrams[256:]).max() == 0
        assert np.abs(PLANTED.bigrams[:, PLANTED.mumble_token]).max() == 0
        assert PLANTED.loss(english()) < 3.2

    @few
    @given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
    def test_token_ids_are_bytes(self, tokenizer: Any, text: str) -> None:
        ids = tokenizer(text)["input_ids"]
        assert bytes(ids) == text.encode()
        assert tokenizer.decode(ids) == text

    def test_special_tokens(self, tokenizer: Any) -> None:
        assert tokenizer.bos_token_id == tokenizer.eos_token_id == PLANTED.bos_token
        assert tokenizer.pad_token_id == PLANTED.pad_token
        assert tokenizer("<|endoftext|>a<|pad|>")["input_ids"] == [256, 97, 257]
        assert len(tokenizer) == PLANTED.d_vocab
        assert tokenizer.model_max_length == PLANTED.n_ctx


class TestFolder:
    def test_two_builds_are_equal_bit_for_bit(self, path: Path, tmp_path: Path) -> None:
        again = planted.build(tmp_path / "again")
        names = sorted(file.name for file in path.iterdir())
        assert names == sorted(file.name for file in again.iterdir())
        assert "model.safetensors" in names
        for name in names:
            assert (again / name).read_bytes() == (path / name).read_bytes()

    def test_an_intact_folder_is_left_alone(self, tmp_path: Path) -> None:
        weights = planted.folder(tmp_path) / "model.safetensors"
        before = weights.stat()
        assert planted.folder(tmp_path) == weights.parent
        assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
        )
        assert [entry.name for entry in tmp_path.iterdir()] == ["planted"]

    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("model.safetensors", "missing"),
            ("model.safetensors", "cut"),
            ("model.safetensors", "flipped"),
            ("tokenizer.json", "flipped"),
            ("planted.json", "missing"),
            ("planted.json", "cut"),
        ],
    )
    def test_a_damaged_folder_is_rebuilt(self, tmp_path: Path, name: str, damage: str) -> None:
        file = planted.folder(tmp_path) / name
        whole = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(whole[: len(whole) // 2])
        else:
            middle = len(whole) // 2
            file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert (planted.folder(tmp_path) / name).read_bytes() == whole
        assert [entry.name for entry in tmp_path.iterdir()] == ["planted"]

    def test_strange_files_in_the_cache_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "planted").mkdir()
        (tmp_path / "planted" / "seeds.txt").write_text("tomatoes")
        with pytest.raises(OutputError, match="something other than a planted model"):
            planted.folder(tmp_path)
        assert (tmp_path / "planted" / "seeds.txt").exists()

    def test_another_design_is_rebuilt(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = dataclasses.replace(PLANTED, version=PLANTED.version + 1)
        manifest = planted.folder(tmp_path) / "planted.json"
        before = manifest.read_text()
        monkeypatch.setattr(planted, "PLANTED", changed)
        planted.folder(tmp_path)
        assert manifest.read_text() != before

    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        code = "import sys; from lensprobe.models import planted; planted.folder(sys.argv[1])"
        command = [sys.executable, "-c", code, str(tmp_path)]
        root = str(Path(planted.__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": root}
        running = [subprocess.Popen(command, env=environment) for _ in range(2)]
        assert [process.wait(timeout=120) for process in running] == [0, 0]
        assert [entry.name for entry in tmp_path.iterdir()] == ["planted"]
        assert planted.folder(tmp_path).is_dir()

    def test_unwritable_cache(self, tmp_path: Path) -> None:
        # A file in the way refuses even the superuser, whom permissions do not stop.
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(OutputError, match="LENSPROBE_CACHE") as caught:
            planted.folder(blocked)
        assert isinstance(caught.value, LensprobeError)
        assert str(blocked) in str(caught.value)

    def test_full_disk_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: Path, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            planted.folder(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_refuses_to_replace_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="something other than a planted model"):
            planted.build(tmp_path)
        assert (tmp_path / "thesis.tex").exists()

    def test_where_the_cache_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planted, "_is_intact", lambda path: True)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("LENSPROBE_CACHE", raising=False)
        assert planted.folder() == tmp_path / "home/.cache/lensprobe/planted"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert planted.folder() == tmp_path / "xdg/lensprobe/planted"
        monkeypatch.setenv("LENSPROBE_CACHE", str(tmp_path / "mine"))
        assert planted.folder() == tmp_path / "mine/planted"
        assert planted.folder(tmp_path / "given") == tmp_path / "given/planted"


class TestTransformerLens:
    """Carried into either TransformerLens, the logits stay transformers' own."""

    def check(self, lens: Any, model: Any) -> None:
        tokens = torch.as_tensor(random_tokens(200))[None]
        logits, cache = lens.run_with_cache(tokens)
        assert (logits - run(model, tokens).logits).abs().max() < 1e-4
        for name in PLANTED.residual_hooks:
            np.testing.assert_allclose(
                cache[name][0, 0, DIMS].detach().cpu(), PLANTED.values, rtol=1e-6
            )
        assert lens.to_tokens("Hi").tolist() == [[PLANTED.bos_token, 72, 105]]
        assert (lens.cfg.n_ctx, lens.cfg.d_mlp) == (PLANTED.n_ctx, PLANTED.d_mlp)

    def test_bridge(self, path: Path, model: Any) -> None:
        bridge = pytest.importorskip("transformer_lens.model_bridge").TransformerBridge
        self.check(bridge.boot_transformers(str(path), device="cpu"), model)

    def test_hooked_transformer(self, path: Path, model: Any) -> None:
        try:
            lens = gpt2_folder_to_hooked(path)
        except ImportError:
            pytest.skip("TransformerLens 4 has no HookedTransformer")
        self.check(lens, model)
        assert all(not hasattr(block.ln1, "folded") for block in lens.blocks)

    def test_hooked_transformer_takes_only_gpt2(self, tmp_path: Path) -> None:
        pytest.importorskip("transformer_lens.HookedTransformer")
        transformers.LlamaConfig().save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="llama"):
            gpt2_folder_to_hooked(tmp_path)


def documented_rows() -> list[str]:
    """Every row of numbers in the documentation that follows from the design."""
    rows = [
        f"| {u.layer} | {u.neuron} | {u.activation:g} | {u.weights[0]:g} | {u.weights[1]:g} | "
        f"{u.contribution[0]:+g} | {u.contribution[1]:+g} |"
        for u in PLANTED.writers + PLANTED.erasers
    ]
    for sink in PLANTED.sink_heads:
        means = [
            PLANTED.mean_attention(sink.strength, factor, length)
            for factor, length in [(1.0, 64), (1.0, 1024), (0.1, 64), (0.0, 64)]
        ]
        numbers = " | ".join(f"{mean:.4f}" for mean in means)
        rows.append(f"| L{sink.layer}H{sink.head} | {sink.strength:g} | {numbers} |")
    for factor in (0.0, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0, 1.1, 2.0, 4.0):
        cost = PLANTED.loss(english(), factor) - PLANTED.loss(english())
        slope = PLANTED.loss_slope(english(), factor)
        rows.append(
            f"| {factor:g} | {PLANTED.share(factor):.4f} | {PLANTED.leftover(factor):.1f} | "
            f"{cost:+.5f} | {slope:+.5f} |"
        )
    return rows


class TestDocumentation:
    @pytest.mark.parametrize("row", documented_rows())
    def test_row_is_true(self, row: str) -> None:
        assert row in DOCS.read_text(encoding="utf-8")

    def test_text_is_quoted_as_tested(self) -> None:
        page = DOCS.read_text(encoding="utf-8")
        assert f"“{ENGLISH}”" in page
        assert f"{PLANTED.loss(english()):.5f} nats" in page
