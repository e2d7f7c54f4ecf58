"""Every pair of digits as one cell of a square: what a − b does, against the unedited network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite
from .theme import Words, build, colour_bar, number, style
from .wording import capital, model_name

if TYPE_CHECKING:
    from ..mnist import Study

__all__ = ["NAMES", "SHARES", "behind", "scale_name", "square", "study_sentence"]

NAMES = {
    "loss": "log loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "probability_positive": "P(a | image of b)",
    "probability_negative": "P(b | image of b)",
}
GROUPS = {"others": "images that are not of b", "all": "all images", "negative": "images of b"}
SHARES = ("accuracy", "probability_positive", "probability_negative")


def square(
    study: Study,
    *,
    measure: str = "loss",
    layer: int | None = None,
    scale: float = 1.0,
    group: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Every pair as one cell: rows a, columns b, vector a − b; on the diagonal the unedited network.

    Args:
        study: a study of a network for digits.
        measure: "loss", "perplexity", "accuracy", "probability_positive" or "probability_negative".
        layer: None is the first one of the study.
        scale: the coefficient.
        group: of test images: "others", "all" or "negative"; None is the one the measure is about.
    """
    look = style(theme, width_mm, title)
    at = study.layers[0] if layer is None else layer
    images = group or ("negative" if measure.startswith("probability") else "others")
    frame = study.square(measure, layer=at, scale=study.nearest_scale(scale), group=images)
    values, digits = frame.to_numpy(dtype=float), [str(digit) for digit in frame.index]
    shares = measure in SHARES
    # Losses span three powers of ten, and the unedited ones would all be one colour.
    shown = values if shares else np.log10(np.where(values > 0, values, np.nan))
    coefficient, name = number(study.nearest_scale(scale)), capital(NAMES[measure])
    trace = go.Heatmap(
        x=digits,
        y=digits,
        z=[finite(row) for row in shown],
        text=[["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in values],
        texttemplate="%{text}",
        textfont={"size": look.theme.size - 3},
        colorscale=list(look.theme.sequential),
        colorbar=colour_bar(scale_name(measure), look.theme, **({} if shares else _decades(shown))),
        **({"zmin": 0.0, "zmax": 1.0} if shares else {}),
        xgap=1,
        ygap=1,
        hovertemplate="<b>%{y} − %{x}</b><br>%{text}<extra></extra>",
    )
    words = Words(
        title=f"{name} under a − b, {behind(study, at)}",
        subtitle=f"{model_name(study)}, coefficient {coefficient}, {GROUPS[images]}",
        caption=(
            f"{name} of {GROUPS[images]} when the vector a − b is added {behind(study, at)}. "
            "On the diagonal nothing is added: the unedited network."
        ),
        finding=_square_sentence(frame),
    )
    return build(
        [trace],
        look,
        words,
        height=520,
        xaxis={
            "title": {"text": "b (taken away)"},
            "type": "category",
            "showgrid": False,
            "constrain": "domain",
            "constraintoward": "left",
        },
        yaxis={
            "title": {"text": "a (added)"},
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
            "scaleanchor": "x",
            "constrain": "domain",
        },
    )


def scale_name(measure: str) -> str:
    """A measure as a scale names it: its unit, and whether the scale is a logarithm."""
    said = ["nats an image"] * (measure == "loss") + ["log scale"] * (measure not in SHARES)
    return f"{NAMES[measure]} ({', '.join(said)})" if said else NAMES[measure]


def _decades(shown: np.ndarray) -> dict[str, Any]:
    marks = [v for v in (0.1, 0.3, 1, 3, 10, 30, 100) if np.nanmin(shown) <= np.log10(v)]
    marks = [v for v in marks if np.log10(v) <= np.nanmax(shown)]
    return {"tickvals": [float(np.log10(v)) for v in marks], "ticktext": [f"{v:g}" for v in marks]}


def behind(study: Study, layer: int) -> str:
    """Where a vector is added, in words."""
    return f"behind layer {layer} ({study.kinds[layer]})"


def study_sentence(study: Study) -> str:
    """What a study found at its first layer, in one sentence."""
    scale = study.nearest_scale(1.0)
    return _square_sentence(study.square(layer=study.layers[0], scale=scale))


def _square_sentence(frame: pd.DataFrame) -> str:
    values = frame.to_numpy(dtype=float)
    off = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    if np.isnan(off).all():
        return "Here no pair was run."
    diagonal = np.diag(values)
    low, high = (np.unravel_index(f(off), off.shape) for f in (np.nanargmin, np.nanargmax))
    digits = list(frame.index)
    return (
        f"Here the pairs lie between {number(float(off[low]))} ({digits[low[0]]} − "
        f"{digits[low[1]]}) and {number(float(off[high]))} ({digits[high[0]]} − "
        f"{digits[high[1]]}), against "
        f"{number(float(np.nanmin(diagonal)))} to {number(float(np.nanmax(diagonal)))} unedited."
    )
