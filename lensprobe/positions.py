"""Which tokens an edit touches.

A selector is a rule that can be asked about any token as it is read. Rules about absolute positions,
the prompt's end or the token itself are *fixed* once the token is read, so a key-value cache changes
nothing. `last()` alone *moves*: at each step only the newest token is selected, and the one before
it is plain again.

Selectors combine: `a | b`, `a & b`, `a - b` (exclusion), `~a`.

>>> (all() - front(1)).describe()
'(all() - front(1))'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .errors import ArgumentError

__all__ = [
    "Positions",
    "Step",
    "after_prompt",
    "all",
    "at",
    "between",
    "front",
    "generated",
    "last",
    "role",
    "where",
]


@dataclass(frozen=True)
class Step:
    """The tokens that one forward pass feeds, as selectors see them.

    Attributes:
        positions: int `[batch pos]`, absolute; -1 at pads, which no selector ever selects.
        tokens: int `[batch pos]`.
        prompts: int `[batch]`, how many tokens of each row belong to the prompt.
        newest: bool `[batch pos]`, the newest token of each row.
        rows: int `[batch]`, each row's index in what the caller passed.
        reread: how many leading columns were read by the step before and are read again.
        roles: per row, the chat role of each prompt token.
        tokenizer: decodes tokens for `where(callable)`.
        reach: int `[batch]`, how many tokens of each row a rule may count on; None is its prompt. A
            decoder's prompt behind an encoder is its start token alone, and rules reach further.
    """

    positions: np.ndarray
    tokens: np.ndarray
    prompts: np.ndarray
    newest: np.ndarray
    rows: np.ndarray
    reread: int = 0
    roles: Sequence[Sequence[str | None]] = ()
    tokenizer: Any = field(default=None, repr=False)
    reach: np.ndarray | None = None

    @property
    def counted_on(self) -> np.ndarray:
        """`reach`, or the prompts where it is None."""
        return self.prompts if self.reach is None else self.reach

    @property
    def whose(self) -> str:
        """What those tokens are, for messages."""
        return "a prompt has" if self.reach is None else "the decoder reads"


@dataclass(frozen=True)
class Positions:
    """A rule that says which tokens are selected. Make one with this module's functions."""

    rule: Callable[[Step], np.ndarray] = field(repr=False)
    text: str
    moves: bool = False
    needs: Callable[[Step], None] | None = field(default=None, repr=False)
    fits_vector: bool = False
    """`front()` without a number: an edit with one vector for each token makes it that long."""

    def mask(self, step: Step) -> np.ndarray:
        """Bool `[batch pos]`: the selected tokens of this step; never a pad."""
        return self.rule(step) & (step.positions >= 0)

    def check(self, prompt: Step) -> None:
        """Look at the whole prompt before the forward pass is paid for.

        Raises:
            ArgumentError: a position the prompt does not have, or nothing is ever selected.
        """
        if self.needs is not None:
            self.needs(prompt)

    def describe(self) -> str:
        """The call that made this selector."""
        return self.text

    def __or__(self, other: Positions) -> Positions:
        return self._with(other, "|", lambda a, b: a | b)

    def __and__(self, other: Positions) -> Positions:
        return self._with(other, "&", lambda a, b: a & b)

    def __sub__(self, other: Positions) -> Positions:
        return self._with(other, "-", lambda a, b: a & ~b)

    def __invert__(self) -> Positions:
        return Positions(lambda step: ~self.rule(step), f"~({self.text})", self.moves)

    def _with(
        self, other: Positions, sign: str, join: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> Positions:
        if not isinstance(other, Positions):
            raise ArgumentError(f"{self.text} {sign} {other!r}: the right side is no selector.")

        def needs(step: Step) -> None:
            self.check(step)
            other.check(step)

        return Positions(
            lambda step: join(self.rule(step), other.rule(step)),
            f"({self.text} {sign} {other.text})",
            self.moves or other.moves,
            needs,
        )


def all() -> Positions:
    """Every token: the prompt's and, as they come, the generated ones.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.all())
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [True, True, True, True, True, True]
    """
    return Positions(lambda step: step.positions >= 0, "all()")


def front(n: int | None = None) -> Positions:
    """The first `n` tokens, BOS included (activation addition, Turner et al. 2308.10248).

    `n=None` is as many as the added vector has rows, one for a single vector.

    Raises:
        ArgumentError: `n` is not a positive whole number; a prompt is shorter than `n`.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.front(2))
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [True, True, False, False, False, False]
    """
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise ArgumentError(f"n={n!r}: front(n) takes a positive whole number, or nothing.")
    count = 1 if n is None else n

    def needs(step: Step) -> None:
        short = step.counted_on.min()
        if short < count:
            raise ArgumentError(f"front({count}) needs {count} tokens; {step.whose} {short}.")

    text = "front()" if n is None else f"front({n})"
    return Positions(lambda step: step.positions < count, text, needs=needs, fits_vector=n is None)


def after_prompt() -> Positions:
    """From the prompt's last token on, so that the first generated token is already affected.

    This is the scope of contrastive activation addition (Rimsky et al. 2312.06681): the residual at
    the prompt's last token predicts the first answer token. For generated tokens alone use
    `generated()`.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.after_prompt())
        >>> found = lp.forward(model, "llo", prompt="He", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [False, False, True, True, True, True]
    """
    return Positions(lambda step: step.positions >= step.prompts[:, None] - 1, "after_prompt()")


def generated() -> Positions:
    """Generated tokens only: the first of them is chosen by the unedited model.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.generated())
        >>> found = lp.forward(model, "llo", prompt="He", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [False, False, False, True, True, True]
    """
    return Positions(lambda step: step.positions >= step.prompts[:, None], "generated()")


def last() -> Positions:
    """The newest token only; when the next comes, this one is plain again (it *moves*).

    With a key-value cache that takes a two-token step: the token before the newest is read again,
    unedited, over a cache cropped by one.

    Examples:
        >>> newest = lp.positions.last()
        >>> newest.moves, lp.positions.all().moves
        (True, False)
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.last())
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [False, False, False, False, False, True]
    """
    return Positions(lambda step: step.newest, "last()", moves=True)


def at(*positions: int) -> Positions:
    """Given absolute positions; negative ones count from the prompt's end (-1 is its last token).

    Raises:
        ArgumentError: no positions; a prompt is too short to have one of them.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.at(0, -1))
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [True, False, False, False, False, True]
    """
    if not positions or not _whole(positions):
        raise ArgumentError(f"at{positions!r}: give one or more whole numbers.")
    wanted = np.asarray(positions)

    def rule(step: Step) -> np.ndarray:
        absolute = np.where(wanted < 0, wanted + step.prompts[:, None], wanted)
        return (step.positions[:, :, None] == absolute[:, None, :]).any(-1)

    def needs(step: Step) -> None:
        short, prompt = int(step.counted_on.min()), int(step.prompts.min())
        outside = [p for p in positions if not -prompt <= p < short]
        if outside:
            raise ArgumentError(
                f"position {outside[0]} is out of range: {step.whose} {short} tokens, "
                f"0 to {short - 1} (or -{prompt} to -1)."
            )

    return Positions(rule, f"at({', '.join(map(str, positions))})", needs=needs)


def between(first: int, stop: int) -> Positions:
    """Absolute positions `first` up to, not including, `stop`; negatives from the prompt's end.

    Raises:
        ArgumentError: the window is empty for some prompt.

    Examples:
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.between(1, -1))
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [False, True, True, True, True, False]
    """
    if not _whole((first, stop)):
        raise ArgumentError(f"between({first!r}, {stop!r}): two whole numbers.")

    def ends(step: Step) -> tuple[np.ndarray, np.ndarray]:
        low = step.prompts + first if first < 0 else np.full_like(step.prompts, first)
        high = step.prompts + stop if stop < 0 else np.full_like(step.prompts, stop)
        return low, high

    def rule(step: Step) -> np.ndarray:
        low, high = ends(step)
        return (step.positions >= low[:, None]) & (step.positions < high[:, None])

    def needs(step: Step) -> None:
        low, high = ends(step)
        if (np.maximum(low, 0) >= high).any():
            raise ArgumentError(f"between({first}, {stop}) selects nothing in a prompt.")

    return Positions(rule, f"between({first}, {stop})", needs=needs)


def role(name: str) -> Positions:
    """The content of every turn of one chat role: `role("user")`.

    Raises:
        ArgumentError: a prompt is not a chat, or has no turn of that role.

    Examples:
        >>> import copy
        >>> tokenizer = copy.deepcopy(model.tokenizer)  # the planted model has no chat template
        >>> tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
        >>> talker = lp.load("planted", tokenizer=tokenizer)
        >>> turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
        >>> talk = lp.chat(talker, turns)
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=lp.positions.role("user"))
        >>> (lp.forward(talker, talk, edits=quiet, layers=5).activation(5) == 0).all(1).tolist()
        [False, True, True, False, False, False]
    """

    def rule(step: Step) -> np.ndarray:
        found = np.zeros(step.positions.shape, dtype=bool)
        for row, names in enumerate(step.roles):
            hit = np.array([other == name for other in names] or [False])
            place = step.positions[row]
            inside = (place >= 0) & (place < len(hit))
            found[row, inside] = hit[place[inside]]
        return found

    def needs(step: Step) -> None:
        for names in step.roles or [()]:
            if name not in names:
                have = ", ".join(sorted({n for n in names if n})) or "none: it is not a chat"
                raise ArgumentError(f"role({name!r}): the roles of this prompt are {have}.")

    return Positions(rule, f"role({name!r})", needs=needs)


def where(mask: Any) -> Positions:
    """Tokens picked by a mask over the prompt, or by a function of the token's string.

    Args:
        mask: Bool `[pos]` or `[batch pos]` over absolute prompt positions (later tokens are not
            selected), or a callable `str -> bool` that is asked about every token as it is read.

    Raises:
        ArgumentError: the mask selects nothing or does not fit the prompts.

    Examples:
        >>> vowels = lp.positions.where(lambda token: token in "aeiou")
        >>> quiet = lp.Scale(factor=0.0, layers=5, positions=vowels)
        >>> found = lp.forward(model, "Hello", edits=quiet, layers=5)
        >>> (found.activation(5) == 0).all(1).tolist()
        [False, False, True, False, False, True]
    """
    if isinstance(mask, Callable):
        return Positions(partial(_ask, mask), "where(callable)", needs=_needs_tokenizer)
    try:
        table = np.atleast_2d(np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask))
    except ValueError as error:
        raise ArgumentError("where(mask): rows of different lengths.") from error
    if table.dtype.kind not in "biu":
        raise ArgumentError(f"where(mask): True and False, not {table.dtype}.")
    table = table.astype(bool)
    if not table.any() or table.ndim != 2:
        raise ArgumentError("where(mask): the mask selects no token.")

    def rule(step: Step) -> np.ndarray:
        rows = table[step.rows] if len(table) > 1 else np.repeat(table, len(step.rows), 0)
        inside = (step.positions >= 0) & (step.positions < table.shape[1])
        picked = np.take_along_axis(rows, np.where(inside, step.positions, 0), axis=1)
        return inside & picked

    def needs(step: Step) -> None:
        longest = int(step.counted_on.max())
        if len(table) not in (1, len(step.rows)) or table.shape[1] > longest:
            raise ArgumentError(
                f"where(mask): a mask of shape {table.shape} does not fit "
                f"{len(step.rows)} prompts of up to {longest} tokens."
            )

    return Positions(rule, "where(mask)", needs=needs)


def _needs_tokenizer(step: Step) -> None:
    if step.tokenizer is None:
        raise ArgumentError(
            "where(callable) asks about token strings; this model has no tokenizer."
        )


def _ask(function: Callable[[str], bool], step: Step) -> np.ndarray:
    # Decoded one token at a time: a token's string must not depend on its neighbours in the batch.
    known = {
        int(token): bool(function(step.tokenizer.decode([int(token)])))
        for token in np.unique(step.tokens)
    }
    return np.vectorize(known.__getitem__, otypes=[bool])(step.tokens)


def _whole(values: Sequence[Any]) -> bool:
    return not any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values)
