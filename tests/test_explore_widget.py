"""The widgets of `lp.explore`: what moves them, what they show, and what they say when it fails."""

from __future__ import annotations

import asyncio
import signal

import pytest
from test_explore import PROMPT, TEXT, vector_of

import lensprobe as lp
from lensprobe.errors import ArgumentError

pytest.importorskip("anywidget", reason="widgets: pip install 'lensprobe[explore]'")
pytest.importorskip("ipywidgets", reason="widgets: pip install 'lensprobe[explore]'")


@pytest.fixture
def explorer(tiny_gpt2):
    vector = vector_of(tiny_gpt2)
    return lp.explore.steering(tiny_gpt2, vector, prompt=PROMPT, max_new_tokens=4)


def test_a_moved_slider_changes_figure_and_texts_in_place(explorer):
    figure, traces = explorer.figure, explorer.figure.data
    before, texts = list(traces[2].y), explorer._texts.value
    explorer.controls["scale"].value = 5.0
    assert explorer.figure is figure and explorer.figure.data is not None
    assert list(figure.data[2].y) == list(explorer.answer.tokens["kl"]) != before
    assert [trace.uid for trace in figure.data] == [trace.uid for trace in traces]
    assert "scale 5" in explorer._heading.value and not figure.layout.title.text
    assert explorer._texts.value != texts
    assert explorer.settings["scale"] == 5.0 == explorer.answer.provenance["scale"]


def test_every_control_has_a_label_and_waits_for_rest(explorer):
    assert [one.description for one in explorer.controls.values()] == [
        "layer", "scale", "added at", "prompt"
    ]  # fmt: skip
    for name in ("layer", "scale", "prompt"):
        assert explorer.controls[name].continuous_update is False


def test_an_error_is_said_and_kept_and_goes_with_the_next_answer(explorer):
    answer = explorer.answer
    explorer.controls["prompt"].value = ""
    assert isinstance(explorer.error, ArgumentError)
    assert "the text is empty" in explorer._status.value
    assert 'role="alert"' in explorer._status.value and PROMPT in explorer._status.value
    assert explorer.answer is answer
    explorer.controls["prompt"].value = "one two"
    assert explorer.error is None and "alert" not in explorer._status.value
    assert explorer.answer.provenance["prompt"] == "one two"


def test_errors_that_nobody_foresaw_are_said_too(explorer, monkeypatch):
    monkeypatch.setattr(explorer._core, "answer", lambda settings: 1 / 0)
    explorer.controls["scale"].value = 2.0
    assert isinstance(explorer.error, ZeroDivisionError)
    assert "ZeroDivisionError: division by zero" in explorer._status.value


def test_a_long_answer_can_be_interrupted_in_a_kernel(explorer, monkeypatch):
    """A kernel ignores the signal between cells, which is when a widget computes."""

    def answer(settings):
        signal.raise_signal(signal.SIGINT)
        return None

    monkeypatch.setattr(explorer._core, "answer", answer)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        explorer.controls["scale"].value = 2.0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(explorer.error, KeyboardInterrupt)
    assert "Interrupted." in explorer._status.value


def test_set_moves_several_controls_and_answers_once(explorer, monkeypatch):
    asked = []
    ask = explorer._core.ask
    monkeypatch.setattr(explorer._core, "ask", lambda s: asked.append(s) or ask(s))
    before = explorer.settings
    answer = explorer.set(scale=2, layer=3)
    assert len(asked) == 1
    assert (answer.provenance["scale"], answer.provenance["layer"]) == (2.0, 3)
    with pytest.raises(ArgumentError, match="Did you mean 'layer'"):
        explorer.set(layers=2)
    for bad in ({"layer": 17}, {"scale": 99}, {"scale": "much"}, {"positions": "nowhere"}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            explorer.set(**{"prompt": "one two", **bad})
        # What was moved before it is moved back, and nothing is computed.
        assert explorer.settings == {**before, "scale": 2.0, "layer": 3}
    assert len(asked) == 1
    with pytest.raises(ArgumentError, match="empty"):
        explorer.set(prompt="")


def test_in_a_kernel_only_the_newest_setting_is_computed(explorer, monkeypatch):
    asked = []
    ask = explorer._core.ask
    monkeypatch.setattr(explorer._core, "ask", lambda s: asked.append(s["scale"]) or ask(s))
    monkeypatch.setattr("lensprobe.explore.widget.REST", 0.01)

    async def drag():
        for scale in (2.0, 3.0, 4.0):
            explorer.controls["scale"].value = scale
        assert asked == []
        while not asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.03)

    asyncio.run(drag())
    assert asked == [4.0]
    assert explorer.answer.provenance["scale"] == 4.0


def test_markup_in_a_text_stays_text(explorer):
    explorer.controls["prompt"].value = "<img src=x onerror=alert(1)>"
    for part in (explorer._texts.value, explorer._status.value, explorer._heading.value):
        assert "<img" not in part
    assert "&lt;img" in explorer._texts.value


def test_the_other_widgets_show_their_answers_too(tiny_gpt2, explorer):
    rescale = lp.explore.rescale(tiny_gpt2, TEXT, dim=1, layer=0, factors=(-2, 5))
    rescale.controls["factor"].value = 4.0
    rows = rescale.answer.layers[rescale.answer.layers["condition"] == "rescaled"]
    assert list(rescale.figure.data[1].y) == list(rows["value"])
    assert "factor 4" in rescale._texts.value
    blend = lp.explore.interpolation(tiny_gpt2, PROMPT, max_new_tokens=4, theme="dark")
    blend.controls["weight"].value = 1.0
    own = blend.answer.tokens[blend.answer.tokens["condition"] == "interpolated"]
    assert list(blend.figure.data[0].y) == list(own["logprob"])
    assert "Weight 1 after layer 3" in blend._heading.value
    with pytest.raises(ArgumentError, match="light, dark"):
        lp.explore.interpolation(tiny_gpt2, PROMPT, max_new_tokens=4, theme="sepia")
