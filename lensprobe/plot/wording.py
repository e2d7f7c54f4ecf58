"""The sentences that figures and report share, computed from the data; all plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from .axes import rows_of
from .theme import number
from .tokens import label, visible

if TYPE_CHECKING:
    from ..massive import MassiveScan
    from ..results import Shown
    from ..sinks import SinkScan

__all__ = [
    "by_key",
    "capital",
    "entropy_sentence",
    "finding_name",
    "finding_sentence",
    "key_name",
    "key_sentence",
    "model_name",
    "plural",
    "rate_sentence",
    "rule",
    "sink_sentence",
    "value_sentence",
]


def model_name(result: Shown) -> str:
    """The model a result is about, as provenance names it."""
    return str(result.provenance.get("model", "model"))


def capital(name: str) -> str:
    """A name at the beginning of a sentence: only its first letter changes.

    >>> capital("KL from plain"), capital("loss of the LM")
    ('KL from plain', 'Loss of the LM')
    """
    return name[:1].upper() + name[1:]


def plural(count: Any, word: str) -> str:
    """`1 sequence`, `24 sequences`, or `sequences` when the count is not known."""
    if count is None:
        return f"{word}s"
    return f"{int(count):,} {word}" if int(count) == 1 else f"{int(count):,} {word}s"


def rule(scan: MassiveScan) -> tuple[float, float]:
    """The two thresholds a scan was made with: magnitude, and multiple of the median."""
    given = scan.provenance["thresholds"]
    return float(given["magnitude"]), float(given["ratio"])


def finding_name(row: Any, *, markup: bool = False) -> str:
    """`dim 447 at position 0`, or at a token where there is no one position."""
    if int(row.position) >= 0:
        return f"dim {int(row.dim)} at position {int(row.position)}"
    token = str(getattr(row, "token", ""))
    return f"dim {int(row.dim)} at {label(token) if markup else visible(token)}"


def finding_sentence(scan: MassiveScan) -> str:
    """What a massive scan found, in one sentence."""
    if scan.findings.empty:
        return _nothing_massive(scan)
    top = scan.findings.iloc[0]
    where = f"position {int(top.position)}" if top.position >= 0 else "no fixed position"
    others = len(scan.findings) - 1
    more = (
        f" {plural(others, 'further activation')} {'is' if others == 1 else 'are'} massive."
        if others
        else ""
    )
    return (
        f"Here dimension {int(top.dim)} at {where} (token {visible(str(top.token))}) reaches "
        f"{number(top.value)} at layer {int(top.layer)}, {number(top.ratio)} times the median, "
        f"and is massive {_span(int(top['first']), int(top['last']))}.{more}"
    )


def _span(first: int, last: int) -> str:
    return f"at layer {first} only" if first == last else f"from layer {first} to layer {last}"


def _nothing_massive(scan: MassiveScan) -> str:
    magnitude, ratio = rule(scan)
    rows = scan.layers.dropna(subset=["value"])
    if rows.empty:
        return "Here no magnitude is finite, so nothing can be said."
    top = rows.loc[rows["value"].idxmax()]
    return (
        f"Here no activation is massive (above {number(magnitude)} and {number(ratio)} times the "
        f"median): the largest is {number(top['value'])} at layer {int(top['layer'])}, "
        f"{number(top['ratio'])} times the median."
    )


def sink_sentence(scan: SinkScan) -> str:
    """How many heads sink on the first token and which does so most, in one sentence."""
    heads = by_key(scan.heads, 0).dropna(subset=["value"])
    if heads.empty:
        return "Here no head has a finite mean attention to the first token."
    epsilon = float(scan.provenance.get("epsilon", 0.3))
    share = float((heads["value"] > epsilon).mean())
    top = heads.loc[heads["value"].idxmax()]
    return (
        f"Here {share:.0%} of the {len(heads):,} heads give more than {epsilon:g} of their "
        f"attention to the first token on average; the strongest is layer {int(top['layer'])}, "
        f"head {int(top['head'])}, with {top['value']:.2f}."
    )


def key_name(scan: SinkScan, key: int) -> str:
    """`key 0 (<s>)`: a key position with the token that is most often there. Plain text."""
    tokens = list(scan.key_tokens)
    return f"key {key} ({visible(str(tokens[key]))})" if key < len(tokens) else f"key {key}"


def by_key(frame: pd.DataFrame, key: int) -> pd.DataFrame:
    """The rows of one key position, in order."""
    rows = rows_of(frame, key=key)
    return rows.sort_values(by=["layer", "head"]) if "head" in rows else rows


def key_sentence(frame: pd.DataFrame, key: int) -> str:
    """How much the heads attend to a later key."""
    known = frame.dropna(subset=["value"])
    if known.empty:
        return f"Here no head has a finite mean attention to key {key}."
    top = known.loc[known["value"].idxmax()]
    return (
        f"Here the mean over all heads is {known['value'].mean():.2f}; the strongest is layer "
        f"{int(top['layer'])}, head {int(top['head'])}, with {top['value']:.2f}."
    )


def rate_sentence(frame: pd.DataFrame) -> str:
    """The first token's sink rate, and whether any other key competes."""
    rows = by_key(frame, 0).dropna(subset=["sink_rate"])
    if rows.empty:
        return "Here no layer has a finite sink rate."
    top = rows.loc[rows["sink_rate"].idxmax()]
    later = frame.loc[frame["key"] > 0, "sink_rate"].max()
    rest = "" if pd.isna(later) else f"; no other key position goes above {later:.0%} in any layer"
    return (
        f"Here the first token's sink rate is {rows['sink_rate'].mean():.0%} over all layers and "
        f"highest at layer {int(top['layer'])} ({top['sink_rate']:.0%}){rest}."
    )


def entropy_sentence(frame: pd.DataFrame) -> str:
    """The median head, the most focused one and the most spread one."""
    known = frame.dropna(subset=["entropy"])
    if known.empty:
        return "Here no head has a finite entropy."
    low, high = known.loc[known["entropy"].idxmin()], known.loc[known["entropy"].idxmax()]
    return (
        f"Here the median head has {known['entropy'].median():.2f} nats; the most focused is "
        f"layer {int(low['layer'])}, head {int(low['head'])} ({low['entropy']:.2f}), the most "
        f"spread layer {int(high['layer'])}, head {int(high['head'])} ({high['entropy']:.2f})."
    )


def value_sentence(scan: SinkScan) -> str:
    """What the first token hands on in sink heads against the others."""
    epsilon = float(scan.provenance.get("epsilon", 0.3))
    both = by_key(scan.heads, 0).merge(scan.profile, on=["layer", "head"], suffixes=("", "_p"))
    both = both.dropna(subset=["value", "ratio"])
    sinking = both["value"] > epsilon
    sinks, rest = both.loc[sinking, "ratio"], both.loc[~sinking, "ratio"]
    if sinks.empty:
        return "Here no head is a sink, so there is nothing to compare."
    against = f", against {number(rest.median())} in the other heads" if len(rest) else ""
    return (
        f"Here the first token's value vector has {number(sinks.median())} times the norm of the "
        f"others in the median sink head{against}."
    )
