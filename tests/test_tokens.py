"""Texts to ids: BOS once, pads invisible, chats with who said what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.tokens import TokenBatch, as_texts, encode

TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_bos_is_what_the_model_does_and_never_doubled(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    ids = encode(adapter, "Hello world")
    assert ids == tiny_gpt2.to_tokens("Hello world")[0].tolist()
    bos = adapter.tokenizer.bos_token
    assert encode(adapter, bos + "Hello world", True) == ids
    assert encode(adapter, "Hello world", False) == ids[1:]
    assert encode(adapter, ids) == ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_decided_once(tiny_gpt2, side):
    batch = TokenBatch.pad(adapter_for(tiny_gpt2), ["one two three", "one"], side=side)
    assert batch.ragged and batch.lengths.tolist() == [len(row) for row in batch.rows()]
    for row in range(2):
        real = batch.mask[row]
        assert batch.positions[row][real].tolist() == list(range(int(real.sum())))
        assert batch.mask[row, -1 if side == "left" else 0]
    assert "".join(batch.strings(0)[1:]) == "one two three"


def test_one_text_and_many_are_told_apart():
    messages = [{"role": "user", "content": "hi"}]
    assert as_texts("one") == ["one"]
    assert as_texts([1, 2, 3]) == [[1, 2, 3]]
    assert as_texts(messages) == [messages]
    assert len(as_texts([messages, "two", [3]])) == 3
    assert len(as_texts(torch.zeros(2, 3, dtype=torch.long))) == 2
    assert len(as_texts(np.zeros(3, dtype=int))) == 1
    with pytest.raises(ArgumentError, match="no texts"):
        as_texts([])


def test_a_chat_has_one_bos_and_knows_who_spoke(tiny_gpt2, monkeypatch):
    adapter = adapter_for(tiny_gpt2)
    monkeypatch.setattr(adapter.tokenizer, "chat_template", TEMPLATE.replace("{{ bos_token }}", ""))
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is a brief?"},
    ]
    chat = lp.chat(tiny_gpt2, messages)
    assert chat.ids.count(adapter.tokenizer.bos_token_id) == 1
    said = [i for i, role in zip(chat.ids, chat.roles, strict=True) if role == "user"]
    assert adapter.tokenizer.decode(said).strip() == "what is a brief?"
    assert adapter.tokenizer.decode(chat.ids).endswith("assistant:")
    edit = lp.Scale(factor=2.0, layers=0, positions=lp.positions.role("user"))
    plain, edited = lp.forward(tiny_gpt2, chat), lp.forward(tiny_gpt2, chat, edits=edit)
    first = chat.roles.index("user")
    assert np.allclose(plain.logits[:first], edited.logits[:first], atol=1e-5)
    assert not np.allclose(plain.logits[first:], edited.logits[first:], atol=1e-3)
    direct = lp.forward(tiny_gpt2, messages)
    assert np.array_equal(direct.logits, plain.logits)


def test_a_template_that_writes_its_own_bos_keeps_one(tiny_gpt2, monkeypatch):
    tokenizer = adapter_for(tiny_gpt2).tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    chat = lp.chat(tiny_gpt2, [{"role": "user", "content": "hi"}])
    assert chat.ids[0] == tokenizer.bos_token_id
    assert chat.ids.count(tokenizer.bos_token_id) == 1


def test_bad_chats_are_refused(tiny_gpt2):
    with pytest.raises(ModelError, match="no chat template"):
        lp.chat(tiny_gpt2, [{"role": "user", "content": "hi"}])
    with pytest.raises(ArgumentError, match="messages"):
        lp.chat(tiny_gpt2, "hi")


@pytest.mark.parametrize("content", ["user", "s", "  what?  ", "assistant: hi"])
def test_a_content_that_occurs_in_a_header_is_still_told_apart(tiny_gpt2, monkeypatch, content):
    adapter = adapter_for(tiny_gpt2)
    template = (
        "You are a helpful assistant, user.\n{% for m in messages %}<{{ m['role'] }}>"
        "{{ m['content'] | trim }}</{{ m['role'] }}>{% endfor %}"
    )
    monkeypatch.setattr(adapter.tokenizer, "chat_template", template)
    chat = lp.chat(tiny_gpt2, [{"role": "user", "content": content}])
    said = [i for i, role in zip(chat.ids, chat.roles, strict=True) if role == "user"]
    others = [i for i, role in zip(chat.ids, chat.roles, strict=True) if role is None]
    assert content.strip() in adapter.tokenizer.decode(said)
    assert "helpful assistant" in adapter.tokenizer.decode(others)
    assert len(said) <= len(content)


UPPER = TEMPLATE.replace("m['content']", "m['content'] | upper")


def test_templates_and_messages_that_cannot_be_read_are_refused(tiny_gpt2, monkeypatch):
    tokenizer = adapter_for(tiny_gpt2).tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", UPPER)
    with pytest.raises(ArgumentError, match="rewrites its content"):
        lp.chat(tiny_gpt2, [{"role": "user", "content": "hi"}])
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(ArgumentError, match="no system role"):
        lp.chat(tiny_gpt2, [{"role": "user", "content": "hi"}])
    with pytest.raises(ArgumentError, match="must be a string"):
        lp.chat(tiny_gpt2, [{"role": "user", "content": None}])


NO_TEXTS = [None, 5, b"ab", {"a": 1}, [[1, [2]]], ["\ud800"], torch.tensor(3)]


@pytest.mark.parametrize("texts", NO_TEXTS, ids=lambda value: type(value).__name__)
def test_what_is_no_text_is_refused(tiny_gpt2, texts):
    with pytest.raises(ArgumentError):
        lp.forward(tiny_gpt2, texts)
