"""What the explanations of a massive activation cost, in forward passes.

    python benchmarks/massive.py [--write] [--documents 8] [--length 64]

Twelve factors at a middle layer against twelve independent runs that measure the same: each a whole
pass of the model with a hook that multiplies the number, the loss, the divergence from the plain run,
and every head's attention to the position. Then against the bare passes. The anatomy of one prompt
against its plain forward pass.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import interleaved, record

import lensprobe as lp
from lensprobe.massive.rescale import FACTORS
from lensprobe.models.adapter import adapter_for
from lensprobe.texts import default_texts
from lensprobe.tokens import encode


def passes(model: Any, ids: torch.Tensor, dim: int, layer: int, *, measured: bool) -> None:
    """One whole pass a factor; `measured` reads what `rescale` reads, in the plainest way."""
    plain = model(ids, return_type="logits").log_softmax(-1) if measured else None
    point = f"blocks.{layer}.hook_resid_post"
    for factor in FACTORS:
        attention = []

        def multiply(residual: torch.Tensor, hook: Any, factor: float = factor) -> torch.Tensor:
            changed = residual.clone()
            changed[:, 0, dim] *= factor
            return changed

        def watch(pattern: torch.Tensor, hook: Any, found: list = attention) -> None:
            found.append(pattern[..., 0].mean(-1))

        hooks = [(point, multiply)]
        if measured:
            names = [f"blocks.{n}.attn.hook_pattern" for n in range(model.cfg.n_layers)]
            hooks += [(name, watch) for name in names]
        logits = model.run_with_hooks(ids, return_type="logits", fwd_hooks=hooks)
        if plain is not None:
            edited = logits.log_softmax(-1)
            (edited.exp() * (edited - plain)).sum(-1).mean()
            edited[:, :-1].gather(-1, ids[:, 1:, None]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="refresh the sections in RESULTS.md")
    args = parser.parse_args()
    model, texts = lp.load(args.model), default_texts()[: args.documents]
    adapter = adapter_for(model)
    layer = adapter.n_layers // 2
    found = lp.massive.trajectory(model, texts, length=args.length, limit=2)
    dim = int(found.values["dim"].iloc[0])
    rows = [encode(adapter, text)[: args.length] for text in texts]
    ids = torch.tensor(rows)
    prompt = torch.tensor([rows[0]])

    place = {"dim": dim, "position": 0, "progress": False}
    with torch.no_grad():
        times = interleaved(
            {
                "rescale": lambda: lp.massive.rescale(
                    model, ids, layer=layer, factors=FACTORS, **place
                ),
                "independent": lambda: passes(model, ids, dim, layer, measured=True),
                "bare": lambda: passes(model, ids, dim, layer, measured=False),
                "anatomy": lambda: lp.massive.anatomy(model, prompt, **place),
                "forward": lambda: model(prompt, return_type="logits"),
            },
            args.repeats,
        )
    record(
        "massive",
        f"{args.model}, {len(rows)} texts of {args.length} tokens, {len(FACTORS)} factors at layer "
        f"{layer} of {adapter.n_layers}; the anatomy of one of them",
        [
            ("rescale / independent runs", times["rescale"] / times["independent"], 0.65),
            ("rescale / bare passes", times["rescale"] / times["bare"], None),
            ("anatomy / forward pass", times["anatomy"] / times["forward"], 3.0),
        ],
        write=args.write,
    )


if __name__ == "__main__":
    main()
