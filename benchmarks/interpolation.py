"""Late layers that see the next token: what it costs to sample, to score and to sweep.

    python benchmarks/interpolation.py [--write] [--length 512] [--new 128] [--prompt 512]

SmolLM2-135M, a middle layer. Rivals: the same loop without the interpolation, a plain forward pass, the
obvious doubled pass through every layer, token by token over the cache, and the definition, which
computes everything anew for each token. The definition is timed at a sample of its lengths and summed.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

import numpy as np
import torch
from common import interleaved, record

import lensprobe as lp
from lensprobe.costs import PeakMemory, release_freed, resident
from lensprobe.interpolation.blend import Blend, resolve_blend
from lensprobe.interpolation.blended import Blended
from lensprobe.interpolation.content import Content
from lensprobe.interpolation.decoding import BlendDecoder
from lensprobe.models.adapter import Adapter, adapter_for
from lensprobe.models.streams import beside, unfit
from lensprobe.running.decoding import Decoder
from lensprobe.running.session import Session, part, prompt_step
from lensprobe.texts import default_texts
from lensprobe.tokens import TokenBatch

LAYER, WEIGHTS = 15, tuple(np.linspace(0.1, 1.0, 10).round(1).tolist())
_TEN = "ten scores with their reference"
SHORT = 16
"""Tokens of the short prompt."""
SAMPLED = 6
"""Lengths at which the definition is timed."""


def made(adapter: Adapter, length: int) -> TokenBatch:
    """One text of so many tokens."""
    ids = adapter.tokenizer.encode(" ".join(default_texts()))[:length]
    return TokenBatch.pad(adapter, [ids])


def scored(batch: TokenBatch, blend: Blend) -> None:
    read = Blended(blend.adapter, batch, blend.layers, logits=False)
    read.predicted(read.logits(blend))


def doubled(adapter: Adapter, batch: TokenBatch) -> None:
    """The obvious way: both streams through every block but the first."""
    residual = adapter.run(batch.ids, stop=1)
    assert residual is not None
    cache = adapter.new_cache(1)
    adapter.run(residual, start=1, cache=cache, logits="all")
    beside(adapter, residual, start=1, cache=cache, mask=batch.mask)


def walked(adapter: Adapter, batch: TokenBatch, blend: Blend | None, begin: int) -> None:
    """Token by token over the cache, two tokens a step where there is something to blend."""
    first = TokenBatch.pad(adapter, [batch.ids[0, :begin].tolist()], side="left")
    if blend is None:
        steps: Decoder = Decoder(Session(adapter), first, cached=True, chunk=None)
        hooks = {}
    else:
        content = Content(blend)
        hooks = content.hooks()
        session = Session(adapter, (), hooks)
        steps = BlendDecoder(session, first, content, cached=True, chunk=None, rows=[0])
    with steps.session:
        steps.start()
        for token in batch.ids[0, begin:-1]:
            steps.advance(token[None])


def anew(adapter: Adapter, batch: TokenBatch, blend: Blend, end: int) -> None:
    """The definition, for the prediction after `end` tokens."""
    content, step = Content(blend), prompt_step(batch)
    with Session(adapter, (), content.hooks()) as session:
        now = part(step, 0, end)
        content.announce(now, batch.ids[:, :end])
        session.read(now, batch.ids[:, :end], logits="last")


def by_definition(
    adapter: Adapter, batch: TokenBatch, blend: Blend, begin: int, repeats: int
) -> float:
    """Seconds of the whole loop from token `begin` on, from some of its lengths."""
    ends = np.linspace(begin, batch.ids.shape[1] - 1, SAMPLED).astype(int)
    rivals: dict[str, Callable[[], object]] = {
        f"definition at {end}": _at(adapter, batch, blend, int(end)) for end in ends
    }
    seconds = list(interleaved(rivals, repeats).values())
    return float(np.trapezoid(seconds, ends)) if len(set(ends)) > 1 else seconds[0]


def _at(adapter: Adapter, batch: TokenBatch, blend: Blend, end: int) -> Callable[[], None]:
    return lambda: anew(adapter, batch, blend, end)


def peak(which: str, length: int, queue: multiprocessing.Queue) -> None:
    """Memory that one pass adds, measured in a process of its own, MiB."""
    torch.set_num_threads(1)
    adapter = adapter_for(model := lp.load("smollm2-135m", device="cpu"))
    batch, blend = made(adapter, length), resolve_blend(adapter, layer=LAYER, weight=0.5)
    with torch.no_grad():
        unfit(adapter, length)
        adapter.run(batch.ids[:, :8])
        # Kernels are loaded and pools filled before anything is counted.
        small = made(adapter, 64)
        scored(small, blend)
        release_freed()
        before = resident()
        with PeakMemory(adapter.device) as most:
            if which == "plain":
                read = Blended(adapter, batch, (LAYER,))
                read.predicted(read.plain)
            else:
                scored(batch, blend)
    queue.put((most.bytes - before) / 2**20)
    del model


def memory(length: int) -> float:
    """Peak memory of a score over that of a plain pass and its losses."""
    context, found = multiprocessing.get_context("spawn"), []
    for which in ("score", "plain"):
        queue = context.Queue()
        process = context.Process(target=peak, args=(which, length, queue))
        process.start()
        found.append(queue.get())
        process.join()
    return found[0] / found[1]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=512, help="tokens before the new ones")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    adapter = adapter_for(model := lp.load("smollm2-135m", device="cpu"))
    blend = resolve_blend(adapter, layer=LAYER, weight=0.5)
    window, begin = made(adapter, given.length), given.prompt
    written, brief = made(adapter, begin + given.new), made(adapter, SHORT + given.new)
    late = resolve_blend(adapter, layer=LAYER + 7, weight=0.5)

    def cells(one: Blend) -> None:
        read = Blended(adapter, window, one.layers)
        read.predicted(read.plain)
        for weight in WEIGHTS:
            read.predicted(read.logits(one.at([weight])))

    def apart(one: Blend, reference: bool) -> None:
        for weight in WEIGHTS:
            read = Blended(adapter, window, one.layers, logits=reference)
            if reference:
                read.predicted(read.plain)
            read.predicted(read.logits(one.at([weight])))

    times = interleaved(
        {
            "plain forward": lambda: adapter.run(window.ids),
            "score": lambda: scored(window, blend),
            "the obvious doubled pass": lambda: doubled(adapter, window),
        },
        # These are short: more rounds for the same drift.
        max(6, 3 * given.repeats),
    )
    sampling = interleaved(
        {
            "plain sampling": lambda: walked(adapter, written, None, begin),
            "interpolated sampling": lambda: walked(adapter, written, blend, begin),
            "the same, short prompt": lambda: walked(adapter, brief, blend, SHORT),
        },
        given.repeats,
    )
    loop = interleaved({"cached loop": lambda: walked(adapter, window, blend, 1)}, 1, warm=False)
    sweeps = interleaved(
        {
            "sweep": lambda: cells(blend),
            _TEN: lambda: apart(blend, True),
            "ten passes alone": lambda: apart(blend, False),
            "late sweep": lambda: cells(late),
            "ten late passes alone": lambda: apart(late, False),
        },
        max(1, given.repeats // 3),
        warm=False,
    )
    definition = by_definition(adapter, window, blend, 1, given.repeats)
    writing = by_definition(adapter, written, blend, begin, 1)
    brief_writing = by_definition(adapter, brief, blend, SHORT, given.repeats)
    plain, one = times["plain forward"], times["score"]
    ours = sampling["interpolated sampling"]
    rows = [
        ("interpolated / plain cached sampling", ours / sampling["plain sampling"], 1.20),
        ("interpolated sampling / its definition", ours / writing, 1 / 8),
        # A pass over so few tokens costs hardly more than one over a single token.
        (
            f"the same after a prompt of {SHORT} tokens",
            sampling["the same, short prompt"] / brief_writing,
            None,
        ),
        ("score of a window / plain forward", one / plain, 1.7),
        ("the obvious way / plain forward", times["the obvious doubled pass"] / plain, None),
        ("score / cached loop", one / loop["cached loop"], 1 / 15),
        ("score / definition", one / definition, 1 / 100),
        ("memory of a score / of a plain pass", memory(given.length), 3.0),
        ("10 weights at once / 10 scores", sweeps["sweep"] / sweeps[_TEN], 0.60),
        ("10 weights at once / 10 bare passes", sweeps["sweep"] / sweeps["ten passes alone"], None),
        (
            f"the same at layer {LAYER + 7}",
            sweeps["late sweep"] / sweeps["ten late passes alone"],
            None,
        ),
    ]
    what = (
        f"SmolLM2-135M, layer {LAYER}, a window of {given.length} tokens, {given.new} new tokens "
        f"after a prompt of {begin}; "
        "a sweep reads the plain model too, as each of ten scores does and a bare pass does not"
    )
    record("Interpolation", what, rows, write=given.write)
    del model


if __name__ == "__main__":
    main()
