"""One pass over texts under edits, keeping logits and activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Edit
from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..models.sites import DEFAULT_SITE
from ..models.stacks import StackName
from ..results import Result
from ..tokens import Bos, Side
from .batching import each_group
from .inputs import Inputs
from .session import Session

__all__ = ["Forward", "forward"]


@dataclass(frozen=True, repr=False, eq=False)
class Forward(Result):
    """What a pass left behind, text by text; pads are gone.

    Attributes:
        tokens: one row a token: text, position, token.
        logits: float32 `[tokens d_vocab]` with `logits="all"`, `[texts d_vocab]` with `"last"`,
            `[0 d_vocab]` with None.
        activations: float32 `[layers tokens width]` at `site`, rows as in `tokens`.
        site: where `activations` were read.
        layers: which layers they are.
    """

    kind: ClassVar[str] = "forward"

    tokens: pd.DataFrame
    logits: np.ndarray
    activations: np.ndarray
    site: str
    layers: list[int]

    def activation(self, layer: int, *, text: int = 0) -> np.ndarray:
        """float32 `[pos width]` of one text at one layer that was read.

        Raises:
            ArgumentError: that layer or text is not in this result.
        """
        rows = (self.tokens["text"] == text).to_numpy()
        if layer not in self.layers or not rows.any():
            raise ArgumentError(
                f"layer={layer}, text={text}: this result has layers {self.layers} and "
                f"{self.tokens['text'].nunique()} texts."
            )
        return self.activations[self.layers.index(layer), rows]

    def summary(self) -> dict[str, Any]:
        """Model, texts, tokens and where activations were read."""
        return {
            **super().summary(),
            "texts": len(np.unique(self.tokens["text"])),
            "tokens": len(self.tokens),
            "site": self.site,
            "layers": str(self.layers),
        }


@torch.no_grad()
def forward(
    model: Any,
    texts: Any,
    *,
    prompt: Any = None,
    stack: StackName = None,
    edits: Edit | Iterable[Edit] = (),
    layers: int | Sequence[int] | Literal["all"] | None = None,
    site: str = DEFAULT_SITE,
    logits: Literal["all", "last"] | None = "all",
    bos: Bos = "auto",
    side: Side = "right",
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Forward:
    """Read texts once under edits.

    Args:
        model: a TransformerLens model.
        texts: one text or many; a text is a string, chat messages or token ids.
        prompt: one text for all, or one for each, read before them; `after_prompt()` and its like
            refer to its end. Without one the whole text counts as the prompt.
        stack: which stack of an encoder-decoder reads the texts and is looked at. The `"encoder"`
            reads them alone, and there are no logits. The `"decoder"` reads them from its start
            token on, after the encoder has read `prompt`.
        edits: written while reading.
        layers: layers whose activations at `site` are kept; None keeps none. A probe at an edited
            point reads the edited value.
        logits: `"all"`, only those of each text's `"last"` token, or None, which skips the
            unembedding.
        side: where a batch is padded; the answer does not depend on it.

    Raises:
        ArgumentError: an empty text, one longer than the context, a layer out of range.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.
        Interrupted: Ctrl-C; `.partial` holds the texts that were finished.

    Examples:
        >>> found = lp.forward(model, "The cat", layers=[1, 5], logits="last")
        >>> found.activation(1).shape, found.logits.shape
        ((8, 768), (1, 258))
        >>> round(float(found.activation(1)[0, 447]))
        3000
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.forward")
    if logits not in ("all", "last", None):
        raise ArgumentError(f'logits={logits!r}: "all", "last" or None.')
    if site == "attn.pattern":
        raise ArgumentError("site='attn.pattern' has no vector for a token; use lp.sinks.scan.")
    reads = adapter.stack(stack).name
    wanted = () if layers is None else adapter.layers(layers, stack=stack)
    names = [adapter.hook_name(site, layer, stack=stack) for layer in wanted]
    gather = Inputs.for_encoder if reads == "encoder" else Inputs.read
    inputs = gather(adapter, texts, prompt, bos)
    found: dict[str, Tensor] = {}
    session = Session(
        adapter,
        edits,
        {name: (lambda x, n=name: found.__setitem__(n, x)) for name in names},
        texts=len(inputs),
    )
    inputs.check(session)

    def work(group: list[int]) -> list[_Kept]:
        # Padded on the left, every text ends in the last column, the only one to be unembedded.
        edge = "left" if logits == "last" else side
        batch = inputs.batch(group, edge)
        # A hook of the user's, on the logits say, must still see the whole pass.
        computed = "all" if adapter.user_hooks() else logits
        out = inputs.feed(session, group, batch, computed)
        out = None if out is None or logits is None else out[:, -1:] if logits == "last" else out
        kept = [
            _Kept(
                batch.strings(row),
                None if out is None else _scores(out[row], real),
                [found[name][row][real].flatten(1).float().cpu().numpy() for name in names],
            )
            for row, real in enumerate(batch.mask)
        ]
        found.clear()
        return kept

    with session:
        outcome = each_group(inputs.sizes, work, batch_tokens=batch_tokens, progress=progress)
    provenance = {
        **adapter.provenance(),
        "bos": adapter.bos(bos),
        "site": site,
        **({} if reads is None else {"stack": reads}),
        "edits": [describe(edit) for edit in session.edits],
        "texts": len(inputs),
        "finished": len(outcome.answers),
        "complete": outcome.complete,
        "notes": outcome.notes,
    }
    shapes = (0, adapter.d_vocab), (len(wanted), 0, adapter.width(site))
    result = _collect(outcome.answers, shapes, site, list(wanted), provenance)
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(inputs)} texts.", partial=result
        )
    return result


@dataclass(frozen=True)
class _Kept:
    """What one text leaves: its tokens, its logits, its activations at each layer read."""

    tokens: list[str]
    logits: np.ndarray | None
    activations: list[np.ndarray]


def _scores(logits: Tensor, real: Tensor) -> np.ndarray:
    """One text's logits without its pads; `logits` may be the last column alone."""
    return logits[real[-len(logits) :]].float().cpu().numpy()


def _collect(
    kept: dict[int, _Kept],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    site: str,
    layers: list[int],
    provenance: dict[str, Any],
) -> Forward:
    texts = sorted(kept)
    tokens = [
        {"text": text, "position": position, "token": token}
        for text in texts
        for position, token in enumerate(kept[text].tokens)
    ]
    # The empty arrays give shape and dtype where nothing was asked for or finished.
    logits = [np.empty(shapes[0], np.float32)]
    activations = [np.empty(shapes[1], np.float32)]
    for text in texts:
        scores = kept[text].logits
        logits += [] if scores is None else [scores]
        activations += [np.stack(kept[text].activations)] if layers else []
    return Forward(
        provenance=provenance,
        tokens=pd.DataFrame(tokens, columns=["text", "position", "token"]),
        logits=np.concatenate(logits),
        activations=np.concatenate(activations, axis=1),
        site=site,
        layers=layers,
    )


def describe(edit: Edit) -> str:
    """An edit as one line for a result's provenance."""
    facts = [f"layers={edit.layers}", f"site={edit.site}", f"positions={edit.positions.describe()}"]
    facts += [] if edit.stack is None else [f"stack={edit.stack}"]
    for name in ("scale", "factor", "weight", "dim"):
        if hasattr(edit, name) and getattr(edit, name) is not None:
            value = getattr(edit, name)
            facts.append(f"{name}={value.tolist() if isinstance(value, Tensor) else value}")
    return f"{type(edit).__name__}({', '.join(facts)})"
