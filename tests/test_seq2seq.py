"""Encoder-decoders: two stacks, the encoder once a prompt, the decoder over both its caches."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
import transformers
from conftest import LEGACY, bridge, t5_bridge
from tiny_models import WIDTH, write_t5_folder
from tolerance import LOGITS, close

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.hooks import add_hook

SHAPES = {
    "t5": ("T5", {}),
    "flan": (
        "T5",
        {
            "num_layers": 3,
            "num_decoder_layers": 2,
            "d_kv": 16,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
    ),
    "mt5": ("MT5", {"num_layers": 1, "num_decoder_layers": 2, "tie_word_embeddings": False}),
    "longt5": ("LongT5", {"tie_word_embeddings": False}),
}
PROMPTS = ["Hello world", "one two three four five six", "cat"]
TEXTS = ["the cat sat", "seven", "a little house in the house"]
VECTOR = torch.linspace(-2.0, 2.0, WIDTH)
STACKS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        name: write_t5_folder(tmp_path_factory.mktemp(name), kind, **options)
        for name, (kind, options) in SHAPES.items()
    }


@pytest.fixture(scope="module")
def bridges(folders):
    return {name: t5_bridge(folder) for name, folder in folders.items()}


@pytest.fixture(params=SHAPES)
def model(request, bridges):
    return bridges[request.param]


@pytest.fixture(scope="module")
def flan(bridges):
    """Three encoder blocks, two of the decoder, heads wider than the stream over their number."""
    return bridges["flan"]


def plain(model):
    """The transformers model inside, to be called past lensprobe and TransformerLens."""
    return model.original_model


def ids_of(model, text):
    """A text as T5 reads it: closed by EOS (id 0 here, which is the start token too)."""
    return torch.tensor([[*model.tokenizer.encode(text, add_special_tokens=False), 0]])


def answer(model, prompt, text):
    """Logits of the decoder's tokens by transformers alone, one text at a time."""
    given = ids_of(model, text)
    start = torch.zeros_like(given[:, :1])
    with torch.no_grad():
        return plain(model)(
            input_ids=ids_of(model, prompt), decoder_input_ids=torch.cat([start, given], dim=1)
        ).logits[0]


@contextmanager
def added(module, change):
    """A transformers block whose output is changed by hand."""

    def hook(block, args, output):
        return (change(output[0]), *output[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def walked(model, prompt, tokens, edit=None):
    """Tokens and log-probabilities of greedy decoding, everything computed anew at each step.

    `edit(newest) -> context manager`, for what moves.
    """
    source = ids_of(model, prompt)
    decoded = torch.zeros(1, 1, dtype=torch.long)
    found = []
    with torch.no_grad():
        for _ in range(tokens):
            with edit(decoded.shape[1] - 1) if edit else added(torch.nn.Identity(), None):
                logits = plain(model)(
                    input_ids=source, decoder_input_ids=decoded, use_cache=False
                ).logits[0, -1]
            chosen = logits.argmax()
            found.append(float(logits.log_softmax(-1)[chosen]))
            decoded = torch.cat([decoded, chosen.reshape(1, 1)], dim=1)
    return decoded[0, 1:].tolist(), found


def written(model, prompt, **options):
    """Tokens and log-probabilities of each prompt by `lp.generate`."""
    found = lp.generate(
        model, prompt, max_new_tokens=5, stop_at_eos=False, logprobs=True, **options
    )
    by_text = found.tokens.groupby("text")
    return [(rows["id"].tolist(), rows["logprob"].tolist()) for _, rows in by_text]


def blocks(model, stack):
    return getattr(plain(model), stack).block


def edit_in(stack, positions=None, layers=0, **options):
    chosen = lp.positions.all() if positions is None else positions
    return lp.Add(VECTOR, layers=layers, stack=stack, positions=chosen, **options)


# ---- against transformers --------------------------------------------------------------------------


def test_forward_equals_transformers(model):
    read = lp.forward(model, TEXTS, prompt=PROMPTS, stack="decoder")
    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        rows = (read.tokens["text"] == index).to_numpy()
        close(read.logits[rows], answer(model, prompt, text))
        assert read.tokens["position"][rows].tolist() == list(range(rows.sum()))


def test_activations_of_both_stacks_equal_transformers(model):
    read = {
        "encoder": lp.forward(model, PROMPTS, stack="encoder", layers="all"),
        "decoder": lp.forward(model, TEXTS, prompt=PROMPTS, stack="decoder", layers="all"),
    }
    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        given = ids_of(model, text)
        with torch.no_grad():
            out = plain(model)(
                input_ids=ids_of(model, prompt),
                decoder_input_ids=torch.cat([torch.zeros_like(given[:, :1]), given], dim=1),
                output_hidden_states=True,
            )
        for stack in STACKS:
            states = getattr(out, f"{stack}_hidden_states")
            # The last of transformers' states is after the final norm.
            for layer in read[stack].layers[:-1]:
                found = read[stack].activation(layer, text=index)
                close(found, states[layer + 1][0], "residual")
            last = torch.tensor(read[stack].activation(read[stack].layers[-1], text=index))
            norm = getattr(plain(model), stack).final_layer_norm
            with torch.no_grad():
                close(norm(last), states[-1][0], "residual")


def test_an_encoder_has_no_logits(flan):
    read = lp.forward(flan, PROMPTS, stack="encoder", layers=[0, 2], site="attn.v")
    assert read.logits.shape == (0, flan.cfg.d_vocab)
    # Four heads of sixteen: wider than the stream.
    assert read.activations.shape == (2, len(read.tokens), 64)
    assert read.provenance["stack"] == "encoder"


def test_generation_equals_transformers(model):
    for prompt, (tokens, values) in zip(PROMPTS, written(model, PROMPTS), strict=True):
        expected, logprobs = walked(model, prompt, 5)
        assert tokens == expected
        close(values, logprobs)


def test_generation_equals_transformers_own(flan):
    """`stop_at_eos=False` writes EOS like any token, which transformers' own loop will not."""
    compared = 0
    for prompt, (tokens, _) in zip(PROMPTS, written(flan, PROMPTS), strict=True):
        made = (
            plain(flan)
            .generate(ids_of(flan, prompt), max_new_tokens=5, do_sample=False, num_beams=1)[0, 1:]
            .tolist()
        )
        assert made == tokens[: len(made)]
        compared += len(made)
    assert compared > 5


def test_the_loss_equals_transformers(model):
    scored = lp.score(model, TEXTS, prompt=PROMPTS)
    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        with torch.no_grad():
            loss = plain(model)(input_ids=ids_of(model, prompt), labels=ids_of(model, text)).loss
        assert scored.texts["loss"][index] == pytest.approx(float(loss), abs=LOGITS)
    kinds = scored.tokens.groupby("text")["kind"].agg(list)
    assert all(row[0] == "prompt" and set(row[1:]) == {"text"} for row in kinds)


def test_one_prompt_serves_all_texts(model):
    one = lp.score(model, TEXTS, prompt=PROMPTS[1])
    each = lp.score(model, TEXTS, prompt=[PROMPTS[1]] * 3)
    assert one.texts.equals(each.texts)


def test_texts_end_with_eos_and_token_ids_are_taken_as_they_are(flan):
    read = lp.forward(flan, ["the cat", "the cat<|endoftext|>"], stack="encoder").tokens
    once, twice = (rows["token"].tolist() for _, rows in read.groupby("text"))
    assert once == twice and once.count("<|endoftext|>") == 1 and once[-1] == "<|endoftext|>"
    assert lp.score(flan, "the cat", prompt="one").tokens["token"].tolist()[-1] == once[-1]
    assert len(lp.forward(flan, [[5, 6]], stack="encoder").tokens) == 2
    with_bos = lp.forward(flan, "the cat", stack="encoder", bos=True).tokens["token"].tolist()
    assert with_bos == [once[-1], *once]


def test_a_start_token_is_not_doubled(flan):
    once = lp.score(flan, [[5, 6, 7]], prompt="one")
    again = lp.score(flan, [[0, 5, 6, 7]], prompt="one")
    assert once.tokens.equals(again.tokens)


# ---- the encoder once, the caches ------------------------------------------------------------------


@contextmanager
def counted(model, *names):
    seen = {name: [] for name in names}
    table = model.hook_dict
    removers = [
        add_hook(table[name], lambda x, hook, n=name: seen[n].append(tuple(x.shape[:2])))
        for name in names
    ]
    try:
        yield seen
    finally:
        for remove in removers:
            remove()


@pytest.mark.parametrize("cache", [True, False])
def test_the_encoder_runs_once_a_prompt(flan, cache):
    deep = "encoder_blocks.2.hook_resid_post"
    with counted(flan, deep, "decoder_blocks.0.hook_resid_post") as seen:
        written(flan, PROMPTS, cache=cache)
    width = max(ids_of(flan, prompt).shape[1] for prompt in PROMPTS)
    assert seen[deep] == [(3, width)]
    steps = seen["decoder_blocks.0.hook_resid_post"]
    assert steps == [(3, 1)] * 5 if cache else [(3, 1 + n) for n in range(5)]


def test_cross_attention_reads_the_encoder_once(flan):
    name = "decoder_blocks.1.cross_attn.hook_k"
    with counted(flan, name) as seen:
        written(flan, PROMPTS)
    assert len(seen[name]) == 1


def test_the_encoder_runs_once_for_scores_read_token_by_token(flan):
    moving = edit_in("decoder", lp.positions.last())
    with counted(flan, "encoder_blocks.0.hook_resid_pre") as seen:
        lp.score(flan, TEXTS, prompt=PROMPTS, edits=moving)
    assert len(seen["encoder_blocks.0.hook_resid_pre"]) == len(TEXTS)


SELECTORS = {
    "encoder all": ("encoder", lp.positions.all()),
    "encoder front": ("encoder", lp.positions.front(1)),
    "encoder last": ("encoder", lp.positions.last()),
    "decoder all": ("decoder", lp.positions.all()),
    "decoder third": ("decoder", lp.positions.at(2)),
    "decoder generated": ("decoder", lp.positions.generated()),
    "decoder last": ("decoder", lp.positions.last()),
}


@pytest.mark.parametrize("case", SELECTORS)
def test_the_cache_is_invisible(model, case):
    stack, positions = SELECTORS[case]
    edit = edit_in(stack, positions, layers="all")
    for (tokens, values), (again, slow) in zip(
        written(model, PROMPTS, edits=edit),
        written(model, PROMPTS, edits=edit, cache=False),
        strict=True,
    ):
        assert tokens == again
        close(values, slow)


@pytest.mark.parametrize("case", SELECTORS)
def test_a_batch_equals_each_alone(model, case):
    stack, positions = SELECTORS[case]
    edit = edit_in(stack, positions, layers="all")
    together = written(model, PROMPTS, edits=edit)
    for prompt, (tokens, values) in zip(PROMPTS, together, strict=True):
        ((alone, single),) = written(model, prompt, edits=edit)
        assert tokens == alone
        close(values, single)
    scored = lp.score(model, TEXTS, prompt=PROMPTS, edits=edit)
    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        single = lp.score(model, text, prompt=prompt, edits=edit)
        assert scored.texts["loss"][index] == pytest.approx(single.texts["loss"][0], abs=LOGITS)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_sides_and_chunks_do_not_matter(model, side, chunk):
    edit = edit_in("decoder", lp.positions.generated())
    plain_way = lp.score(model, TEXTS, prompt=PROMPTS, edits=edit)
    other = lp.score(model, TEXTS, prompt=PROMPTS, edits=edit, side=side, chunk=chunk)
    close(other.texts["loss"], plain_way.texts["loss"])


def test_sampling_does_not_depend_on_the_batch(flan):
    options = {"max_new_tokens": 4, "temperature": 1.0, "seed": 3, "stop_at_eos": False}
    together = lp.generate(flan, PROMPTS, **options).tokens
    alone = lp.generate(flan, PROMPTS[0], **options).tokens
    assert together[together["text"] == 0]["id"].tolist() == alone["id"].tolist()


# ---- edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_an_addition_equals_one_by_hand(model, stack):
    """Once, at the output of one block, against a hook on transformers' own block."""
    edit = edit_in(stack, layers=0)
    read = lp.forward(model, TEXTS, prompt=PROMPTS, stack="decoder", edits=edit)
    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        rows = (read.tokens["text"] == index).to_numpy()
        with added(blocks(model, stack)[0], lambda x: x + VECTOR):
            close(read.logits[rows], answer(model, prompt, text))


def test_each_stack_counts_its_own_tokens(flan):
    """A table of three rows in either stack, with the same selector object in both."""
    table = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    everywhere = lp.positions.all()
    edits = [lp.Add(table, layers=1, stack=stack, positions=everywhere) for stack in STACKS]
    read = lp.forward(flan, TEXTS, prompt=PROMPTS, stack="decoder", edits=edits)

    def front(x):
        rows = torch.zeros_like(x)
        count = min(3, x.shape[1])
        rows[:, :count] = table[:count]
        return x + rows

    for index, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        rows = (read.tokens["text"] == index).to_numpy()
        with (
            added(blocks(flan, "encoder")[1], front),
            added(blocks(flan, "decoder")[1], front),
        ):
            close(read.logits[rows], answer(flan, prompt, text))


def test_last_in_the_decoder_falls_back_to_plain(model):
    """Against recomputing everything, with only the newest token edited."""

    def newest(place):
        def change(x):
            return torch.cat([x[:, :place], x[:, place:] + VECTOR], dim=1)

        return added(blocks(model, "decoder")[0], change)

    edit = edit_in("decoder", lp.positions.last())
    for prompt, (tokens, values) in zip(PROMPTS, written(model, PROMPTS, edits=edit), strict=True):
        expected, logprobs = walked(model, prompt, 5, newest)
        assert tokens == expected
        close(values, logprobs)


def test_last_in_the_encoder_is_its_last_token(model):
    one = edit_in("encoder", lp.positions.last())
    same = edit_in("encoder", lp.positions.at(-1))
    assert written(model, PROMPTS, edits=one) == written(model, PROMPTS, edits=same)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "attn.v"])
def test_every_site_of_every_stack_takes_an_edit(flan, stack, site):
    width = adapter_for(flan).width(site)
    edit = lp.Set(value=torch.ones(width), layers=0, stack=stack, site=site)
    where = {"stack": stack, "layers": 0, "site": site, "edits": edit}
    prompt = {} if stack == "encoder" else {"prompt": PROMPTS}
    read = lp.forward(flan, TEXTS, **prompt, **where)
    assert (read.activations == 1).all()


@pytest.mark.parametrize("stack", STACKS)
def test_strength_zero_is_the_plain_model(model, stack):
    options = {"prompt": PROMPTS, "stack": "decoder"}
    unedited = lp.forward(model, TEXTS, **options).logits
    nothing = [
        edit_in(stack, scale=0.0),
        lp.Scale(factor=1.0, layers="all", stack=stack),
        lp.Mix(VECTOR, weight=0.0, layers=0, stack=stack),
    ]
    assert (lp.forward(model, TEXTS, edits=nothing, **options).logits == unedited).all()


@pytest.mark.parametrize("stack", STACKS)
def test_strengths_for_each_row_equal_separate_runs(model, stack):
    scales = torch.tensor([0.0, 1.0, -2.0])
    together = written(model, PROMPTS, edits=edit_in(stack, scale=scales))
    for prompt, scale, (tokens, values) in zip(PROMPTS, scales, together, strict=True):
        ((alone, single),) = written(model, prompt, edits=edit_in(stack, scale=float(scale)))
        assert tokens == alone
        close(values, single)


def test_a_decoder_only_model_may_name_its_decoder(tiny_gpt2):
    unnamed = lp.Add(VECTOR, layers=1)
    named = lp.Add(VECTOR, layers=1, stack="decoder")
    texts = ["one two three"]
    found = [lp.forward(tiny_gpt2, texts, edits=edit).logits for edit in (unnamed, named)]
    assert (found[0] == found[1]).all()
    assert lp.forward(tiny_gpt2, texts, stack="decoder").logits.shape == found[0].shape


def test_forward_reads_behind_a_prompt_in_a_decoder_only_model(tiny_gpt2):
    after = lp.Add(VECTOR, layers=1, positions=lp.positions.generated())
    read = lp.forward(tiny_gpt2, " three four", prompt="one two", edits=after)
    scored = lp.score(tiny_gpt2, " three four", prompt="one two", edits=after)
    log_probs = torch.tensor(read.logits).log_softmax(-1)
    ids = tiny_gpt2.tokenizer.encode(" three four", add_special_tokens=False)
    loss = -log_probs[-len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None])
    assert float(loss.mean()) == pytest.approx(scored.texts["loss"][0], abs=1e-5)


def test_provenance_says_which_stack(flan):
    found = lp.generate(flan, "one", edits=edit_in("encoder"), max_new_tokens=1)
    assert "stack=encoder" in found.provenance["edits"][0]


# ---- vectors ---------------------------------------------------------------------------------------


def test_a_mixing_input_in_the_encoder(flan):
    vector = lp.steering.mixing(flan, PROMPTS[1], layer=1, stack="encoder")
    read = lp.forward(flan, PROMPTS[1], stack="encoder", layers=1)
    assert vector.stack == "encoder" and (vector.values == read.activation(1)).all()
    edit = vector.add(1.0)
    assert edit.stack == "encoder"
    twice = lp.forward(flan, PROMPTS[1], stack="encoder", layers=1, edits=edit)
    close(twice.activation(1), 2 * vector.values, "residual")


def test_a_mixing_input_in_the_decoder_is_what_it_reads_while_answering(flan):
    vector = lp.steering.mixing(flan, PROMPTS[0], layer=1, stack="decoder", max_new_tokens=5)
    tokens = lp.generate(flan, PROMPTS[0], max_new_tokens=5).tokens["id"].tolist()
    seen = []
    point = flan.hook_dict["decoder_blocks.1.hook_resid_post"]
    remove = add_hook(point, lambda x, hook: seen.append(x[0, -1].clone()))
    try:
        lp.generate(flan, PROMPTS[0], max_new_tokens=5)
    finally:
        remove()
    assert len(tokens) == len(seen) == vector.tokens
    close(vector.values, torch.stack(seen), "residual")


def test_a_vector_of_any_numbers_names_its_stack(flan):
    vector = lp.steering.from_tensor(flan, torch.ones(WIDTH), layer=1, stack="decoder")
    assert vector.add().stack == "decoder"
    with pytest.raises(ArgumentError, match="stack=None"):
        lp.steering.from_tensor(flan, torch.ones(WIDTH), layer=1)
    with pytest.raises(ArgumentError, match="decoder has 2 layers"):
        lp.steering.mixing(flan, "one", layer=2, stack="decoder")


# ---- around the user's own calls -------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in SELECTORS if case != "decoder last"])
def test_editing_a_call_equals_forward(flan, case):
    stack, positions = SELECTORS[case]
    edit = edit_in(stack, positions)
    source, given = ids_of(flan, PROMPTS[1]), ids_of(flan, "the cat sat on")
    decoded = torch.cat([torch.zeros_like(given[:, :1]), given], dim=1)
    with lp.editing(flan, edit), torch.no_grad():
        logits = flan(source, decoder_input=decoded)[0]
    read = lp.forward(flan, "the cat sat on", prompt=PROMPTS[1], stack="decoder", edits=edit)
    close(logits, read.logits)


@pytest.mark.parametrize("case", [case for case in SELECTORS if case != "decoder last"])
def test_editing_around_transformers_generate(flan, case):
    stack, positions = SELECTORS[case]
    edit = edit_in(stack, positions)
    ((tokens, _),) = written(flan, PROMPTS[1], edits=edit)
    with lp.editing(flan, edit):
        made = plain(flan).generate(
            ids_of(flan, PROMPTS[1]), max_new_tokens=5, do_sample=False, num_beams=1
        )
    made = made[0, 1:].tolist()
    assert made == tokens[: len(made)]


def test_a_moving_edit_over_a_cache_is_refused(flan):
    moving = edit_in("decoder", lp.positions.last())
    with lp.editing(flan, moving), pytest.raises(ArgumentError, match=r"needs lp\.generate"):
        plain(flan).generate(ids_of(flan, "one"), max_new_tokens=3, min_new_tokens=3)


def test_nothing_is_left_behind(model):
    points = {id(p): p for p in model.hook_dict.values()}.values()
    lp.generate(model, PROMPTS, edits=[edit_in(s) for s in STACKS], max_new_tokens=2)
    with pytest.raises(ZeroDivisionError), lp.editing(model, edit_in("encoder")):
        raise ZeroDivisionError
    assert not any(point.fwd_hooks for point in points)
    for stack in STACKS:
        assert not getattr(plain(model), stack)._forward_pre_hooks


def test_the_users_hooks_see_whole_passes(flan):
    seen = []
    name = "hook_unembed"
    remove = add_hook(flan.hook_dict[name], lambda x, hook: seen.append(tuple(x.shape)), ours=False)
    try:
        read = lp.forward(flan, "the cat", prompt="one", stack="decoder", logits=None)
    finally:
        remove()
    assert seen and seen[0][1] == len(read.tokens)
    assert read.provenance["user_hooks"] == [name]


# ---- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: lp.generate(m, "one", edits=lp.Add(VECTOR, layers=0)),
            "an encoder-decoder; say",
        ),
        (lambda m: lp.forward(m, "one"), "stack=None: this is an encoder-decoder"),
        (lambda m: lp.forward(m, "one", stack="both"), "stack='both'"),
        (lambda m: lp.forward(m, "one", stack="decoder"), "prompt=None"),
        (lambda m: lp.forward(m, "one", stack="encoder", prompt="two"), "the encoder reads the"),
        (
            lambda m: lp.forward(m, "one", stack="encoder", edits=edit_in("decoder")),
            "the decoder, which does not run",
        ),
        (lambda m: lp.score(m, "one"), "prompt=None"),
        (lambda m: lp.score(m, ["one", "two"], prompt=["a", "b", "c"]), "3 prompts for 2 texts"),
        (
            lambda m: lp.forward(m, "one", stack="encoder", layers=3),
            "this model's encoder has 3 layers",
        ),
        (
            lambda m: lp.generate(m, "one", edits=edit_in("decoder", layers=2)),
            "this model's decoder has 2 layers",
        ),
        (
            lambda m: lp.generate(m, "one", edits=edit_in("encoder", lp.positions.front(9))),
            "a prompt has",
        ),
        (
            lambda m: lp.generate(m, "one", edits=edit_in("encoder", lp.positions.generated())),
            "generated\\(\\) selects nothing that the encoder reads",
        ),
        (
            lambda m: lp.generate(
                m, "one", edits=edit_in("decoder", lp.positions.front(9)), max_new_tokens=4
            ),
            "needs 9 tokens; the decoder reads 4",
        ),
        (
            lambda m: lp.generate(m, "one", edits=edit_in("decoder", lp.positions.at(-2))),
            "out of range",
        ),
        (lambda m: lp.generate(m, "one", max_new_tokens=5000), "with its start token"),
        (lambda m: lp.generate(m, ["one", ""]), "the text is empty"),
        (lambda m: lp.generate(m, [[9999]]), "vocabulary"),
        (
            lambda m: lp.generate(m, ["a", "b"], edits=edit_in("encoder", scale=torch.ones(3))),
            "holds values for 3 texts",
        ),
    ],
)
def test_bad_input_is_refused(flan, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(flan)


def test_an_encoder_of_a_decoder_only_model_is_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="it has no encoder"):
        lp.generate(tiny_gpt2, "one", edits=edit_in("encoder"))
    with pytest.raises(ArgumentError, match="it has no encoder"):
        lp.forward(tiny_gpt2, "one", stack="encoder")
    with pytest.raises(ModelError, match="no encoder"):
        adapter_for(tiny_gpt2).encode(torch.zeros(1, 1, dtype=torch.long))


def test_a_decoder_alone_and_late_starts_are_refused(flan):
    adapter = adapter_for(flan)
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ModelError, match="behind `encode`"):
        adapter.run(ids)
    reader = adapter.encode(ids)
    with pytest.raises(ArgumentError, match="start"):
        reader.run(torch.zeros(1, 2, WIDTH), start=1)
    with pytest.raises(ModelError, match="repeat the prompts"):
        reader.new_cache(1).repeated(2)


def test_other_encoder_decoders_are_refused_by_name(tmp_path):
    from tiny_models import write_tokenizer

    config = transformers.BartConfig(
        vocab_size=write_tokenizer(tmp_path),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=0,
    )
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    with pytest.raises(ModelError, match=r"of the T5 family; .* BartForConditionalGeneration"):
        lp.generate(model, "one")
    assert "T5 family" in lp.check(model).analyses["lp.forward"]


@pytest.mark.skipif(not LEGACY, reason="TransformerLens 4 makes T5 bridges that run")
def test_a_bridge_of_the_older_line_is_sent_to_load(folders):
    with pytest.raises(ModelError, match=r"on TransformerLens 3\.9 those that lp.load has loaded"):
        lp.generate(bridge(folders["t5"]), PROMPTS[0])


def test_a_folder_loads_and_answers(folders):
    model = lp.load(folders["flan"])
    assert adapter_for(model).encoder_decoder
    made = lp.generate(model, PROMPTS[0], max_new_tokens=2, stop_at_eos=False)
    assert made.texts["prompt"].tolist() == [PROMPTS[0]]
    assert made.tokens["position"].tolist() == [1, 2]


def test_a_folder_with_t5s_own_tokenizer(tmp_path):
    """What a hub id such as google/flan-t5-small brings: pieces, `</s>` at the end, no BOS."""
    words = [(f"▁{word}", -3.0) for word in ("the", "cat", "dog", "sat", "on", "mat")]
    letters = [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz."]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = transformers.T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=4)
    write_t5_folder(
        tmp_path,
        vocab_size=len(tokenizer),
        eos_token_id=1,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    tokenizer.save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    raw = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    texts = ["the cat sat", "the dog sat on the mat."]
    made = lp.generate(model, texts, max_new_tokens=6).tokens
    for index, text in enumerate(texts):
        ids = tokenizer(text).input_ids
        assert ids[-1] == 1
        read = lp.forward(model, text, stack="encoder").tokens
        assert len(read) == len(ids)
        expected = raw.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, 1:]
        assert made[made["text"] == index]["id"].tolist() == expected.tolist()
    with torch.no_grad():
        labels = torch.tensor([tokenizer(texts[1]).input_ids])
        loss = raw(input_ids=torch.tensor([tokenizer(texts[0]).input_ids]), labels=labels).loss
    scored = lp.score(model, texts[1], prompt=texts[0])
    assert scored.texts["loss"][0] == pytest.approx(float(loss), abs=LOGITS)
