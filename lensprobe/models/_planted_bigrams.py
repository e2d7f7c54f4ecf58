"""The language the planted model speaks: bigrams of bytes, counted in one short text.

The logit of byte `s` after byte `c` is `ln(V · q(s | c))`, so that each row's exponentials add up
to the vocabulary size `V`. A token without opinion has logit 0, and the partition function is the
same after every byte: that is what makes the loss a closed form.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

__all__ = ["TEXT", "bigram_logits"]

TEXT = (
    "A reader who opens a model for the first time sees numbers without names. The first thing "
    "to do is to look for the large ones. In many models a few of them are a thousand times "
    "larger than the rest, they stand at the first token, and they are there whatever the text "
    "says. Why should that be? One answer is that a head needs a place to look when it has "
    "nothing to say. It must put its attention somewhere, for the weights always add up to one, "
    "and so it rests on a token that carries no news. We call that token a sink. The large "
    "number is the mark by which the heads find it: take the mark away and they look around, "
    "pick up what they did not want, and say it aloud. This model was not trained. Each of its "
    "weights was set by hand, so that we know where the mark is written, which heads read it, "
    "and what it costs to remove it. When a tool is pointed at this model, the right answer is "
    "in the book, and the tool can be checked against it. In 1 text or 100, with 2 tokens or "
    "1,024, on paper or on a screen, the numbers have to agree. If they do not, then the tool "
    "is wrong (or the book is); in both cases it is better to know. What did you expect to "
    "see? Quite often the truth is simple, just a few weights, and the story we told before "
    "we looked was not. Keep the question small, keep the measure exact, and write down what "
    "you found before you explain it. You may be wrong; your notes should not be.\n"
)

_UNIGRAM_FLOOR = 0.1
"""Added to the count of every token, so that no token is impossible."""
_UNIGRAM_WEIGHT = 2.0
"""How many observations the unigram distribution is worth beside a byte's own followers."""


@functools.cache
def bigram_logits(d_vocab: int, silent: int) -> Float[np.ndarray, "current next"]:
    """Logits of the next token after each current token, in nats; float64, read-only.

    Token ids below 256 are bytes. `silent` is the token held at probability `1 / d_vocab` (logit
    0) after every token; it must not occur in the counted text. Rows of ids 256 and above (the
    special tokens) are uniform, all zeros. Each row's exponentials add up to `d_vocab`.
    """
    data = np.frombuffer(TEXT.encode("ascii"), dtype=np.uint8).astype(np.int64)
    if silent in data:
        raise ValueError(f"silent={silent} occurs in the text the bigrams are counted in")
    counts = np.zeros((d_vocab, d_vocab))
    np.add.at(counts, (data[:-1], data[1:]), 1.0)

    unigram = counts.sum(axis=0) + _UNIGRAM_FLOOR
    unigram[silent] = 0.0
    unigram /= unigram.sum()
    followers = counts + _UNIGRAM_WEIGHT * unigram
    # The silent token takes its 1 / V first; everything else shares what is left.
    probability = (1 - 1 / d_vocab) * followers / followers.sum(axis=1, keepdims=True)
    probability[:, silent] = 1 / d_vocab
    probability[256:] = 1 / d_vocab

    logits = np.log(d_vocab * probability)
    logits.flags.writeable = False
    return logits
