"""A `HookedMLP` behind the face that edits and probes know: an image is a text of one token."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ArgumentError, HookPointError, ModelError
from ..models.adapter import Adapter, Report, adapter_for
from ..models.cache import Cache
from ..models.stacks import Stack, StackName

__all__ = ["MLPAdapter", "network_adapter"]

RUNS = ("lp.editing",)
"""What runs on any model with hook points, images or text."""


class _Layers(Stack):
    """The column of layers; everything but a layer's input and output belongs to transformers."""

    @override
    def point(self, site: str, layer: int) -> str:
        if site not in ("resid_pre", "resid_post"):
            raise HookPointError(
                f"site={site!r}: a HookedMLP has resid_post, behind a layer, and resid_pre, before it."
            )
        # One point between two layers: before the one is behind the other.
        behind = self.layer(layer) - (site == "resid_pre")
        return f"layers.{behind}.hook_out" if behind >= 0 else "hook_input"


class MLPAdapter(Adapter):
    """See `Adapter`. `run` takes images `[batch pixels]`, or with `start` what enters that layer."""

    line = "hooked"

    def __init__(self, model: Any) -> None:
        self._model = weakref.ref(model)
        self.widths: tuple[int, ...] = tuple(layer.width for layer in model.layers)
        self.kinds: tuple[str, ...] = model.kinds
        self.n_layers = len(self.widths)
        self.n_heads = self.n_kv_heads = self.d_head = self.d_mlp = 0
        self.d_model = max(self.widths)
        self.d_vocab = self.widths[-1]
        self.context = 1
        self.encoder_decoder = False
        self.closes_texts = False
        self.start = ()
        self.stacks = (_Layers(None, self.n_layers),)

    @property
    def pixels(self) -> int:
        """How many numbers an image has."""
        return int(self.model.cfg.widths[0])

    @override
    def width_at(self, site: str, layers: Any, *, stack: StackName = None) -> int:
        chosen = self.layers(layers)
        self.hook_name(site, chosen[0])
        widths = {self._width(site, layer) for layer in chosen}
        if len(widths) > 1:
            raise ArgumentError(
                f"layers={layers!r}: they are {', '.join(map(str, sorted(widths)))} wide; "
                "an edit is for layers of one width."
            )
        return widths.pop()

    def _width(self, site: str, layer: int) -> int:
        behind = layer - (site == "resid_pre")
        return self.widths[behind] if behind >= 0 else self.pixels

    @override
    def require_text(self, what: str) -> None:
        raise ModelError(
            f"{what} needs a language model; a HookedMLP reads images "
            "(lp.mnist.study, lp.editing, run_with_cache)."
        )

    @override
    def require_decoder(self, what: str) -> None:
        self.require_text(what)

    @override
    def require_runnable(self, what: str) -> None:
        if what not in RUNS:
            self.require_text(what)

    @override
    def provenance(self) -> dict[str, Any]:
        facts = super().provenance()
        config = self.model.cfg
        return {
            **{key: value for key, value in facts.items() if key not in ("n_heads", "d_model")},
            "widths": list(config.widths),
            "residual": config.residual,
            "weights_seed": config.seed,
        }

    @override
    def coordinates(self) -> str:
        return "raw"

    @override
    def norm_point(self, layer: int) -> tuple[str, Tensor | None]:
        raise HookPointError("a HookedMLP has no norms.")

    @override
    def new_cache(self, batch: int) -> Cache:
        raise ModelError("a HookedMLP reads an image at once; there is nothing to cache.")

    @override
    def exit_point(self, stop: int | None) -> Any:
        stop = self.n_layers if stop is None else stop
        return self.point(f"layers.{stop - 1}.hook_out" if stop else "hook_input")

    @override
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor:
        if not start:
            return self.model(inputs)
        for layer in self.model.layers[start:]:
            inputs = layer(inputs)
        return inputs

    @override
    def watch(self, report: Report) -> Callable[[], None]:
        def announce(module: Any, args: tuple[Any, ...]) -> None:
            report(torch.zeros(len(args[0]), 1, dtype=torch.long), None, 0, None)

        return self.model.register_forward_pre_hook(announce).remove


def network_adapter(model: Any, what: str) -> MLPAdapter:
    """The adapter of a `HookedMLP`.

    Raises:
        ModelError: any other model.
    """
    adapter = adapter_for(model)
    if not isinstance(adapter, MLPAdapter):
        raise ModelError(
            f"{what} needs an lp.mnist.HookedMLP; this is a {type(model).__name__}. "
            "For language models see lp.steering.sweep."
        )
    return adapter
