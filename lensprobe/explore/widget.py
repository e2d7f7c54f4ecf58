"""The thin layer of widgets over an `Explored`: sliders in, a figure and texts out."""

from __future__ import annotations

import asyncio
import html
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
import plotly.graph_objects as go
from traitlets import TraitError

from ..errors import ArgumentError, LensprobeError, nearest
from ..plot.theme import THEMES
from ..results import Result
from .explored import Choice, Control, Explored, Slider

__all__ = ["Explorer"]

REST = 0.25
"""Seconds without a change after which a setting counts as chosen."""
STOPS = 80
"""Steps of a slider from end to end."""


class Explorer(ipywidgets.VBox):
    """Controls, a figure that follows them, and texts below it.

    A change is answered once the controls rest. What fails is said in the widget and kept in
    `error`; the figure then still shows the answer before.

    Args:
        core: what is asked.
        theme: of the figure.

    Attributes:
        controls: the widget of each setting, by its name.
        figure: a plotly `FigureWidget`.
        answer: the result that is shown.
        error: what went wrong last, or None.

    Raises:
        ArgumentError: an unknown theme; whatever the first answer refuses.
    """

    def __init__(self, core: Explored, *, theme: str = "light") -> None:
        if theme not in THEMES:
            raise ArgumentError(
                f"theme={theme!r}: the themes are {', '.join(THEMES)}.{nearest(str(theme), THEMES)}"
            )
        self._core, self._theme = core, theme
        self._timer: asyncio.TimerHandle | None = None
        self._held = False
        self.error: BaseException | None = None
        self.answer: Result = core.ask({})
        self._shown = core.initial
        self.controls = {control.name: _widget(control) for control in core.controls}
        self._heading = ipywidgets.HTML()
        self.figure: Any = go.FigureWidget(self._titled(core.figure(self.answer, theme)))
        # A figure as wide as its output, also when that changes.
        self.figure._config = {**self.figure._config, "responsive": True, "displaylogo": False}
        self._status = ipywidgets.HTML()
        self._texts = ipywidgets.HTML()
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        self._say_what_is_shown()
        parts = [self._status, self._heading, self.figure, self._texts]
        super().__init__([*self.controls.values(), *parts])

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **settings: Any) -> Result:
        """Move controls and answer at once.

        Raises:
            ArgumentError: a setting of another name, or a value that its control does not have.
            LensprobeError: what the analysis refuses; the widget says it too.
        """
        for name in settings:
            if name not in self.controls:
                raise ArgumentError(
                    f"set({name}=...): the settings are {', '.join(self.controls)}."
                    f"{nearest(name, self.controls)}"
                )
        self._move(settings)
        self._answer()
        if self.error is not None:
            raise self.error
        return self.answer

    def _move(self, settings: dict[str, Any]) -> None:
        before = self.settings
        self._held = True
        try:
            for name, value in settings.items():
                self._put(name, value)
        except ArgumentError:
            for name, value in before.items():
                self._put(name, value)
            raise
        finally:
            self._held = False

    def _put(self, name: str, value: Any) -> None:
        try:
            self.controls[name].value = value
        except TraitError as error:
            raise ArgumentError(f"set({name}={value!r}): {error}") from error
        # A slider takes what lies beyond its end, and stops there.
        if self.controls[name].value != value:
            end = self.controls[name].value
            raise ArgumentError(f"set({name}={value!r}): the slider ends at {end!r}.")

    def _changed(self, change: Any) -> None:
        """Wait until nothing has changed for a moment; without an event loop answer at once."""
        if self._held:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._answer()
        else:
            # Changes that came in while an answer was computed are all heard before the timer is,
            # so that only the last of them is computed.
            self._timer = loop.call_later(REST, self._answer)

    def _answer(self) -> None:
        self._timer = None
        settings = self.settings
        self._status.value = _note("status", "Computing …")
        try:
            with _interruptible():
                answer = self._core.ask(settings)
                figure = self._core.figure(answer, self._theme)
        except (Exception, KeyboardInterrupt) as error:
            self.error = error
            self._status.value = _note("alert", f"{_words(error)} {self._still()}")
            return
        self.answer, self.error, self._shown = answer, None, settings
        self._redraw(figure)
        self._say_what_is_shown()

    def _still(self) -> str:
        facts = ", ".join(f"{name} {value!r}" for name, value in self._shown.items())
        return f"Still shown: {facts}."

    def _titled(self, figure: Any) -> go.Figure:
        """The figure, its title moved out of it.

        plotly's widget draws before it is on the page, where a text has no height yet, and sets a
        subtitle over its title.
        """
        title = figure.layout.title
        # The figure's own texts are markup, escaped already.
        self._heading.value = (
            f'<div style="line-height:1.4"><b style="font-size:1.2em">{title.text}</b><br>'
            f'<span style="opacity:.75">{title.subtitle.text}</span></div>'
        )
        figure.layout.title = {"text": ""}
        figure.layout.margin.t = 16
        figure.layout.height -= 60
        return figure

    def _redraw(self, drawn: Any) -> None:
        """Change the figure in place, so that it neither flickers nor loses its place on the page."""
        figure: Any = self._titled(drawn)
        with self.figure.batch_update():
            for old, new in zip(self.figure.data, figure.data, strict=True):
                old.update(new.to_plotly_json(), overwrite=True)
            self.figure.layout.update(figure.layout.to_plotly_json(), overwrite=True)

    def _say_what_is_shown(self) -> None:
        meta: Any = self.figure.layout.meta
        self._status.value = _note("status", meta["finding"])
        columns = "".join(_column(*text) for text in self._core.texts(self.answer))
        notes = "".join(f"<p>{_safe(note)}</p>" for note in self.answer.provenance["notes"])
        self._texts.value = (
            f'<div style="display:flex;flex-wrap:wrap;gap:1.5em;line-height:1.5">{columns}</div>'
            f'<div style="opacity:.75;line-height:1.4"><p>{_safe(meta["caption"])}</p>{notes}</div>'
        )


def _widget(control: Control) -> Any:
    wide = {"width": "min(100% - 4px, 44em)"}
    options: dict[str, Any] = {
        "description": control.label,
        "layout": wide,
        "style": {"description_width": "7em"},
    }
    if isinstance(control, Slider):
        return ipywidgets.FloatSlider(
            value=control.value,
            min=control.low,
            max=control.high,
            step=(control.high - control.low) / STOPS,
            readout_format=".2f",
            continuous_update=False,
            **options,
        )
    if isinstance(control, Choice):
        if control.ordered:
            return ipywidgets.SelectionSlider(
                options=control.options, value=control.value, continuous_update=False, **options
            )
        return ipywidgets.Dropdown(options=control.options, value=control.value, **options)
    return ipywidgets.Textarea(value=control.value, rows=2, continuous_update=False, **options)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A kernel ignores interrupts between cells; a long answer must be one that can be stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _words(error: BaseException) -> str:
    if isinstance(error, LensprobeError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _note(role: str, text: str) -> str:
    """A line that a screen reader says when it changes."""
    mark = "border-left:3px solid #d55e00;padding-left:.6em" if role == "alert" else ""
    return f'<div role="{role}" style="line-height:1.4;{mark}">{_safe(text)}</div>'


def _column(heading: str, given: str, came: str) -> str:
    return (
        f'<div style="flex:1 1 18em"><b>{_safe(heading)}</b>'
        f'<p style="white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0">'
        f'<span style="opacity:.7">{_safe(given)}</span>{_safe(came)}</p></div>'
    )
