"""The loop of a study: every vector, layer and coefficient on every test image, shared work once.

Layers below an edit run once for all pairs and coefficients, which ride on the batch. Where the next
layer is linear, `W (h + s v) + b = (W h + b) + s (W v)`: what it makes of an addition is itself an
addition, so it runs once too and the branch begins behind it. Such a branch is that of the next layer,
number for number but for rounding, and is then not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from ..edits import Add
from ..positions import Step
from ..running.batching import progress_bar
from ..running.session import Session
from .adapter import MLPAdapter
from .data import CLASSES, DigitsData
from .vectors import ROWS, as_tensor

__all__ = ["LOGITS", "LOSS", "PROBABILITIES", "RIGHT", "Run"]

NUMBERS = 2**19
"""Numbers of a branch's activation at a time: two megabytes of float32, which a core's cache holds."""
LOGITS, PROBABILITIES, LOSS, RIGHT = slice(0, CLASSES), slice(CLASSES, 2 * CLASSES), -2, -1
"""What is summed over images of each shown digit: logits, probabilities, log loss, right answers."""
MEASURED = 2 * CLASSES + 2
HOOKED = "hooks of the user's own are attached: each addition was a whole pass of its own"


@dataclass(frozen=True)
class _Branch:
    """Where the runs of one layer's additions begin, and what is added there."""

    start: int
    steps: Float[Tensor, "variants width"]
    same: int | None = None
    """Which earlier branch begins at the same place with the same steps, so that it is this one."""


class Run:
    """A study as it runs.

    Attributes:
        sums: float64 `[layers pairs scales shown measured]`; see `LOGITS` and its like.
        plain: float64 `[shown measured]`, unedited.
        counts: float64 `[shown]`, images read of each digit.
        read: images read.
    """

    def __init__(
        self,
        adapter: MLPAdapter,
        data: DigitsData,
        vectors: dict[int, Float[Tensor, "pairs width"]],
        scales: Sequence[float],
    ) -> None:
        self.adapter = adapter
        self.data = data
        self.vectors = vectors
        self.scales = torch.tensor(scales, dtype=adapter.dtype, device=adapter.device)
        self.pairs = len(next(iter(vectors.values())))
        self.variants = self.pairs * len(scales)
        self.sums = np.zeros((len(vectors), self.variants, CLASSES, MEASURED))
        self.plain = np.zeros((CLASSES, MEASURED))
        self.counts = np.zeros(CLASSES)
        self.read = 0
        self.plainly = bool(adapter.user_hooks())
        self.notes = [HOOKED] if self.plainly else []

    @property
    def cells(self) -> Float[np.ndarray, "layers pairs scales shown measured"]:
        """`sums` with pairs and scales apart."""
        return self.sums.reshape(len(self.sums), self.pairs, -1, CLASSES, MEASURED)

    @torch.no_grad()
    def all(self, progress: bool | None) -> bool:
        """Read the test images; False where Ctrl-C ended it, with whole groups of images summed."""
        labels = torch.from_numpy(self.data.test_labels).to(self.adapter.device)
        branches = [] if self.plainly else self._branches()
        with progress_bar("image", progress, total=len(labels)) as bar:
            try:
                for begin in range(0, len(labels), ROWS):
                    images = as_tensor(self.adapter, self.data.test_images[begin : begin + ROWS])
                    shown = labels[begin : begin + ROWS]
                    plain, sums = self._group(images, shown, branches)
                    self.plain += plain
                    self.sums += sums
                    self.counts += np.bincount(shown.cpu(), minlength=CLASSES)
                    self.read += len(images)
                    bar.update(len(images))
            except KeyboardInterrupt:
                return False
        return True

    def _branch(self, layer: int) -> _Branch:
        vectors, start = self.vectors[layer], layer + 1
        if start < self.adapter.n_layers and self.adapter.kinds[start] == "linear":
            # The layer's own answer to a vector, without its bias.
            both = torch.cat([vectors, torch.zeros_like(vectors[:1])])
            pushed = self.adapter.run(both, start=start, stop=start + 1)
            assert pushed is not None
            vectors, start = pushed[:-1] - pushed[-1:], start + 1
        steps = vectors[:, None] * self.scales[:, None]
        return _Branch(start, steps.flatten(0, 1))

    def _branches(self) -> list[_Branch]:
        """The branch of each layer; by linearity some of them are the same, to rounding."""
        found: list[_Branch] = []
        for layer in sorted(self.vectors):
            branch = self._branch(layer)
            for index, other in enumerate(found):
                if other.start == branch.start and _equal(other.steps, branch.steps):
                    branch = replace(branch, same=index)
                    break
            found.append(branch)
        return found

    def _group(
        self, images: Tensor, shown: Tensor, branches: Sequence[_Branch]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of one group of images: unedited, and `[layers variants shown measured]`."""
        sums = np.zeros_like(self.sums)
        if self.plainly:
            plain = self.adapter.run(images)
            for at, layer in enumerate(sorted(self.vectors)):
                for variant, logits in enumerate(self._whole_passes(images, layer)):
                    sums[at, variant] = _summed(logits[None], shown)[0]
        else:
            below, reached = images, 0
            for at, branch in enumerate(branches):
                if branch.start > reached:
                    below = self._on(below, reached, branch.start)
                    reached = branch.start
                if branch.same is not None:
                    sums[at] = sums[branch.same]
                    continue
                for part, logits in self._variants(below, branch):
                    sums[at, part] = _summed(logits, shown)
            plain = self._on(below, reached, self.adapter.n_layers)
        assert plain is not None
        return _summed(plain[None], shown)[0], sums

    def _variants(self, below: Tensor, branch: _Branch) -> Iterator[tuple[slice, Tensor]]:
        """Logits `[variants images classes]` of some additions at a time."""
        at_once = max(1, NUMBERS // below.numel())
        for begin in range(0, len(branch.steps), at_once):
            part = slice(begin, begin + at_once)
            edited = (below + branch.steps[part, None]).flatten(0, 1)
            logits = self._on(edited, branch.start, self.adapter.n_layers)
            yield part, logits.unflatten(0, (-1, len(below)))

    def _on(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        """What enters layer `start` carried on to what leaves layer `stop - 1`."""
        if start == stop:
            return inputs
        found = self.adapter.run(inputs, start=start, stop=stop)
        assert found is not None
        return found

    def _whole_passes(self, images: Tensor, layer: int) -> Iterator[Tensor]:
        step = _step(len(images))
        for vector in self.vectors[layer]:
            for scale in self.scales.tolist():
                with Session(self.adapter, Add(vector, layers=layer, scale=scale)) as session:
                    logits = session.read(step, images)
                assert logits is not None
                yield logits


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether vectors differ by rounding alone."""
    apart = (one - other).norm(dim=-1)
    return bool((apart <= 100 * torch.finfo(one.dtype).eps * one.norm(dim=-1)).all())


def _summed(
    logits: Float[Tensor, "variants images classes"], shown: Tensor
) -> Float[np.ndarray, "variants shown measured"]:
    """Sums over the images of each shown digit."""
    known = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2).contiguous()
    # Images last: what is read of a few classes is then read of many images at a time.
    parts = known.new_empty(len(known), MEASURED, known.shape[-1])
    # Numbers of the ten digits alone, whatever else a network has outputs for.
    parts[:, LOGITS] = known[:, :CLASSES]
    top = known.amax(1)
    own = known.gather(1, shown[None, None].expand(len(known), 1, -1))[:, 0]
    parts[:, RIGHT] = own >= top
    # One exponential serves the loss and the probabilities.
    odds = known.sub_(top[:, None]).exp_()
    total = odds.sum(1)
    torch.div(odds[:, :CLASSES], total[:, None], out=parts[:, PROBABILITIES])
    parts[:, LOSS] = (top - own).add_(total.log_())
    group = one_hot(shown, CLASSES).to(known.dtype)
    # One product for each variant, so that its sums do not depend on how many there are.
    sums = torch.bmm(parts, group.expand(len(parts), -1, -1))
    return sums.transpose(1, 2).double().cpu().numpy()


def _step(images: int) -> Step:
    """Images as texts of one token."""
    first = np.zeros((images, 1), dtype=int)
    ones = np.ones(images, dtype=int)
    return Step(
        positions=first,
        tokens=first,
        prompts=ones,
        newest=first == 0,
        rows=np.arange(images),
    )
