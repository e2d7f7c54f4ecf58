"""One run under edits: attaches hooks, tells them which tokens are being read, always removes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from ..edits import Edit, Selection
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..models.cache import Cache
from ..models.hooks import attached
from ..models.reader import Reader
from ..models.stacks import StackName
from ..positions import Step
from ..tokens import Encoded, TokenBatch

__all__ = ["Session", "hooked"]

Hook = Callable[[Tensor], Tensor | None]


@contextmanager
def hooked(adapter: Adapter, hooks: Mapping[str, Hook], *, ours: bool = True) -> Iterator[None]:
    """Hooks `name -> f(activation)` for the length of a `with` block.

    Whatever happens inside, these are removed and the user's stay. Hooks that are not `ours` stand
    for the user's own: passes are not shortened under them and results name them.

    Raises:
        HookPointError: a name that does not exist or never fires.
    """
    points = list(zip(adapter.points(hooks), hooks.values(), strict=True))
    wrapped = [(point, lambda x, hook, f=function: f(x)) for point, function in points]
    with attached(wrapped, ours=ours):
        yield


@dataclass
class _Seen:
    """How many tokens of each row a selector has selected so far, and its answer for this step."""

    count: np.ndarray
    step: Step | None = None
    selection: Selection | None = None


class Session:
    """Edits and probes attached to a model for a number of forward passes over the same rows.

    Use as a context manager; `read` feeds tokens. Without edits and probes nothing is attached, and
    a pass is exactly the model's own. `texts` is how many texts the caller has, against which
    per-text values are checked.

    Raises:
        ArgumentError: an edit that does not fit the model or the number of texts.
    """

    def __init__(
        self,
        adapter: Adapter,
        edits: Edit | Iterable[Edit] = (),
        probes: Mapping[str, Hook] | None = None,
        *,
        texts: int | None = None,
        ours: bool = True,
    ) -> None:
        self.adapter = adapter
        self.ours = ours
        self.edits = tuple(edit.bind(adapter) for edit in _listed(edits))
        if texts is not None:
            self.check_texts(texts)
        self.step: Step | None = None
        self._reader: Reader = adapter
        self._seen: dict[tuple[StackName, int], _Seen] = {}
        hooks: dict[str, Hook] = {}
        by_point: dict[str, list[Edit]] = {}
        for edit in self.edits:
            for name in edit.names(adapter):
                by_point.setdefault(name, []).append(edit)
        for name, group in by_point.items():
            hooks[name] = self._writer(group)
        self._carry_middles(hooks)
        for name, probe in (probes or {}).items():
            # A probe at an edited point reads what the next block will see.
            hooks[name] = _chained(hooks[name], probe) if name in hooks else probe
        self._hooks = hooks
        self._attached = ExitStack()

    @property
    def moves(self) -> bool:
        """Whether any edit moves with the newest token; nothing is ever new to an encoder."""
        return any(edit.positions.moves and edit.stack != "encoder" for edit in self.edits)

    def __enter__(self) -> Self:
        self._attached.enter_context(hooked(self.adapter, self._hooks, ours=self.ours))
        return self

    def __exit__(self, *details: object) -> None:
        self._attached.close()
        self._reader = self.adapter

    def check_texts(self, texts: int) -> None:
        """Whether values for each text are for as many texts as there are.

        Raises:
            ArgumentError: they are not.
        """
        for edit in self.edits:
            if edit.rows() not in (None, texts):
                raise ArgumentError(
                    f"{type(edit).__name__} holds values for {edit.rows()} texts; "
                    f"there are {texts}."
                )

    def check(self, prompts: Step, *, stack: StackName = None) -> None:
        """Look at all prompts, before any pass is paid for; `stack` is whose, None the writer's.

        Raises:
            ArgumentError: a selector that a prompt cannot satisfy.
        """
        for edit in self.edits:
            if edit.stack == (stack or self.adapter.writer.name):
                edit.positions.check(prompts)

    def begin(self, stack: StackName = None) -> None:
        """Start over with new rows, of the stack that writes or of another."""
        stack = stack or self.adapter.writer.name
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] != stack}

    def encode(self, step: Step, ids: Tensor) -> None:
        """Run the encoder over the tokens of `step`; what is read from now on is read behind it."""
        self.begin("encoder")
        self.step = step
        self._reader = self.adapter.encode(ids, _mask(step, ids))

    def new_cache(self, batch: int) -> Cache:
        """An empty key-value cache for `batch` rows."""
        return self._reader.new_cache(batch)

    def read(
        self,
        step: Step,
        ids: Tensor,
        *,
        cache: Cache | None = None,
        start: int = 0,
        stop: int | None = None,
        logits: Literal["all", "last"] | None = "all",
    ) -> Tensor | None:
        """One forward pass over the tokens of `step`; see `Adapter.run`."""
        self.step = step
        return self._reader.run(
            ids, mask=_mask(step, ids), cache=cache, start=start, stop=stop, logits=logits
        )

    def _carry_middles(self, hooks: dict[str, Hook]) -> None:
        """Let what is written at `resid_mid` reach the stream where that point is a branch of it.

        What the edit changed is added once more at the block's output, before anything else happens
        there: the sum is what a block computes whose stream was edited in its middle.
        """
        edits = [e for e in self.edits if e.site == "resid_mid" and self.adapter.mid_is_a_branch]
        for layer in {layer for edit in edits for layer in self.adapter.layers(edit.layers)}:
            middle, end = (self.adapter.hook_name(f"resid_{at}", layer) for at in ("mid", "post"))
            hooks[middle], carry = _remembering(hooks[middle])
            hooks[end] = _chained(carry, hooks[end]) if end in hooks else carry

    def _writer(self, edits: Sequence[Edit]) -> Hook:
        def write(activation: Tensor) -> Tensor | None:
            stream = _as_tokens(activation)
            before = stream
            for edit in edits:
                selection = self._select(edit, stream.device)
                if selection is not None:
                    stream = edit.apply(stream, selection)
            return None if stream is before else stream.reshape(activation.shape)

        return write

    def _select(self, edit: Edit, device: torch.device) -> Selection | None:
        """The selection of this step, computed once for all layers; None where it is empty."""
        step = self.step
        if step is None:
            raise ArgumentError("an edit met a pass whose tokens nobody announced.")
        positions = edit.positions
        key = edit.stack, id(positions)
        seen = self._seen.setdefault(key, _Seen(np.zeros(len(step.rows), dtype=int)))
        if seen.step is not step:
            mask = positions.mask(step)
            before = seen.count - mask[:, : step.reread].sum(1)
            turn = before[:, None] + mask.cumsum(1) - mask
            seen.count = before + mask.sum(1)
            seen.step = step
            seen.selection = (
                None
                if not mask.any()
                else Selection(
                    None if mask.all() else torch.from_numpy(mask).to(device),
                    torch.from_numpy(step.rows).to(device),
                    torch.from_numpy(turn).to(device),
                )
            )
        return seen.selection


def _as_tokens(activation: Tensor) -> Tensor:
    """What an edit sees, `[batch pos width]`."""
    if activation.ndim == 4:
        # attn.v has one axis for heads and one for their width; an edit sees them as one.
        return activation.flatten(2)
    # A network that reads images has one vector for each: an image is a text of one token.
    return activation[:, None] if activation.ndim == 2 else activation


def _mask(step: Step, ids: Tensor) -> Tensor | None:
    real = step.positions >= 0
    return None if real.all() else torch.from_numpy(real).to(ids.device)


def all_prompts(
    adapter: Adapter,
    rows: Sequence[Encoded],
    prompts: Sequence[int] | np.ndarray | None = None,
    *,
    reach: np.ndarray | None = None,
) -> Step:
    """Every text's prompt without its tokens, for selectors to be checked against.

    Raises:
        ArgumentError: a text is longer than the model's context.
    """
    longest = max(len(row) for row in rows)
    if longest > adapter.context:
        raise ArgumentError(
            f"a text has {longest} tokens; this model's context is {adapter.context}."
        )
    nothing = np.zeros((len(rows), 0), dtype=int)
    return Step(
        positions=nothing,
        tokens=nothing,
        prompts=np.asarray([len(row) for row in rows] if prompts is None else prompts),
        newest=nothing.astype(bool),
        rows=np.arange(len(rows)),
        roles=[row.roles for row in rows],
        tokenizer=getattr(adapter.model, "tokenizer", None),
        reach=reach,
    )


def prompt_step(
    batch: TokenBatch, *, prompts: np.ndarray | None = None, rows: np.ndarray | None = None
) -> Step:
    """The step that reads a whole padded batch; `prompts` are the prompt lengths, default all."""
    mask = batch.mask.cpu().numpy()
    positions = np.where(mask, batch.positions.cpu().numpy(), -1)
    lengths = batch.lengths
    return Step(
        positions=positions,
        tokens=batch.ids.cpu().numpy(),
        prompts=lengths if prompts is None else prompts,
        newest=positions == lengths[:, None] - 1,
        rows=np.arange(len(lengths)) if rows is None else rows,
        roles=batch.roles,
        tokenizer=batch.tokenizer,
    )


def part(step: Step, begin: int, end: int, *, reread: int = 0) -> Step:
    """Columns `begin` to `end` of a step, the first `reread` of which were read before."""
    return replace(
        step,
        reread=reread,
        positions=step.positions[:, begin:end],
        tokens=step.tokens[:, begin:end],
        newest=step.newest[:, begin:end],
    )


def _listed(edits: Edit | Iterable[Edit]) -> list[Edit]:
    found = [edits] if isinstance(edits, Edit) or not isinstance(edits, Iterable) else list(edits)
    for edit in found:
        if not isinstance(edit, Edit):
            raise ArgumentError(
                f"edits: a {type(edit).__name__} is not an edit such as lp.Add or lp.Scale."
            )
    return found


def _remembering(write: Hook) -> tuple[Hook, Hook]:
    """The hook, and one that adds to a later activation what the hook has changed."""
    changed: list[Tensor | None] = [None]

    def remember(activation: Tensor) -> Tensor | None:
        written = write(activation)
        changed[0] = None if written is None else written - activation
        return written

    def carry(activation: Tensor) -> Tensor | None:
        shift, changed[0] = changed[0], None
        return None if shift is None else activation + shift

    return remember, carry


def _chained(write: Hook, then: Hook) -> Hook:
    def both(activation: Tensor) -> Tensor | None:
        written = write(activation)
        again = then(activation if written is None else written)
        return written if again is None else again

    return both
