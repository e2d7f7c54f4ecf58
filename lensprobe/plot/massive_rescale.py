"""Figures of a rescaling: every measure against the factor, and the heads that answer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import rows_of
from .facets import facets
from .massive_heads import head_maps
from .steering_parts import band, level
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import Rescale

__all__ = ["VIEWS", "coordinate", "documents", "factors", "heads"]

MEASURES = {
    "loss": "loss (nats a token)",
    "perplexity": "perplexity",
    "kl": "KL from plain (nats a token)",
    "attention": "mean attention to the position",
    "sink_rate": "sink rate",
    "value_norm": "norm of v · W_O there",
    "other_norm": "norm of v · W_O after it",
}
SHOWN = ("loss", "sink_rate", "attention")


def factors(
    result: Rescale,
    *,
    measure: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What the model does against the factor: loss, sink rate and attention, or one measure alone.

    Args:
        result: a rescaling.
        measure: one of those in `effects`; None is the three.

    Raises:
        ArgumentError: a measure that there is not.
    """
    look = style(theme, width_mm, title)
    known = list(dict.fromkeys(result.effects["measure"]))
    if measure is not None and measure not in known:
        raise ArgumentError(f"measure={measure!r}: it was measured in {', '.join(known)}.")
    chosen = [name for name in SHOWN if name in known] if measure is None else [measure]
    traces: list[Any] = []
    for panel, name in enumerate(chosen):
        traces += _panel(result, name, panel, look)
    words = Words(
        title=f"What {coordinate(result)} does, by its size",
        subtitle=f"{model_name(result)}, after layer {result.provenance['layer']}, "
        f"{documents(result)}",
        caption=(
            "Only the number itself is multiplied, at its position, in one layer's output. Bands are "
            "95% bootstrap intervals over documents; dashed is the model as it is (factor 1)."
        ),
        finding=_sentence(result),
    )
    xaxis = {"title": {"text": "factor"}, "zeroline": True, "zerolinecolor": look.theme.grid}
    yaxis: dict[str, Any] = {"rangemode": "normal"}
    layout = facets([MEASURES[name] for name in chosen], look, xaxis, yaxis)
    for panel, name in enumerate(chosen):
        # Each measure has its own unit, so that no panel may share another's axis.
        axis = layout[f"yaxis{'' if panel == 0 else panel + 1}"]
        axis |= {"matches": None, "showticklabels": True}
        axis |= {"title": {"text": MEASURES[name]}} if len(chosen) == 1 else {}
        axis |= {"tickformat": ".0%"} if name in ("sink_rate", "attention") else {}
    return build(traces, look, words, height=400, showlegend=False, **layout)


def heads(
    result: Rescale,
    *,
    factor: float | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Every head's attention to the position: as the model is, and at another factor.

    Args:
        result: a rescaling.
        factor: which one; None is the smallest magnitude, 0 where it is there.

    Raises:
        ArgumentError: a factor that was not run.
    """
    look = style(theme, width_mm, title)
    known = sorted(float(one) for one in result.heads["factor"].unique())
    chosen = min(known, key=abs) if factor is None else float(factor)
    if chosen not in known:
        listed = ", ".join(f"{one:g}" for one in known)
        raise ArgumentError(f"factor={factor!r}: it was run at {listed}.")
    plain = min(known, key=lambda one: abs(one - 1))
    panels = {
        f"factor {one:g}": (rows_of(result.heads, factor=one), "value")
        for one in dict.fromkeys((plain, chosen))
    }
    words = Words(
        title=f"Attention to position {result.provenance['position']}, head by head",
        subtitle=f"{model_name(result)}, {coordinate(result)}, {documents(result)}",
        caption=(
            "Mean attention that later tokens pay to the position, by layer and head, with the number "
            "as it is and multiplied. Layers up to the edited one cannot change."
        ),
        finding=_heads_sentence(result, plain, chosen),
    )
    return head_maps(
        panels,
        look,
        words,
        bar="mean attention",
        cell="attention %{z:.3f}",
        limits=(0.0, 1.0),
        signed=False,
    )


def coordinate(result: Any) -> str:
    """`dim 447 at position 0`, or several dims at it."""
    dims = result.provenance["dims"]
    named = ", ".join(str(dim) for dim in dims)
    return f"dim{'s' * (len(dims) > 1)} {named} at position {result.provenance['position']}"


def documents(result: Any) -> str:
    """How many documents the intervals are over."""
    return plural(int(result.documents["document"].nunique()), "document")


def _panel(result: Rescale, name: str, panel: int, look: Look) -> list[Any]:
    rows = rows_of(result.effects, measure=name).sort_values(by=["factor"])
    ends = [float(rows["factor"].min()), float(rows["factor"].max())]
    hover = f"<b>factor %{{x:g}}</b><br>{MEASURES[name]} %{{y:.4~g}} "
    found: list[Any] = band(
        rows,
        "factor",
        MEASURES[name],
        look.theme.lines[panel % len(look.theme.lines)],
        hover=hover + "[%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]",
        panel=panel,
    )
    plain = result.plain.loc[result.plain["measure"] == name, "value"]
    if len(plain):
        found.append(level(ends, float(plain.iloc[0]), "as it is", look, panel=panel))
    return found


def _sentence(result: Rescale) -> str:
    known = [float(f) for f in result.effects["factor"].unique()]
    low, high = min(known, key=abs), max(known)
    parts = []
    for factor in dict.fromkeys((low, high)):
        loss = result.effect("loss", factor)
        rate = result.effect("sink_rate", factor)
        parts.append(
            f"at factor {factor:g} the loss changes by {_signed(loss['change'])} nats and the sink "
            f"rate goes to {rate['value']:.0%}"
        )
    return f"Here {'; '.join(parts)}."


def _signed(value: Any) -> str:
    return f"{'+' if float(value) >= 0 else '−'}{number(abs(float(value)))}"


def _heads_sentence(result: Rescale, plain: float, chosen: float) -> str:
    layer = int(result.provenance["layer"])
    above = result.heads.loc[result.heads["layer"] > layer]
    if above.empty:
        return "Here no layer stands above the edited one, so that no head can change."
    mean = {f: float(above.loc[above["factor"] == f, "value"].mean()) for f in (plain, chosen)}
    return (
        f"Here the heads above layer {layer} pay {mean[plain]:.2f} of their attention to the "
        f"position at factor {plain:g} and {mean[chosen]:.2f} at factor {chosen:g}."
    )


VIEWS = {"factors": factors, "heads": heads}
