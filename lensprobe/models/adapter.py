"""One face for TransformerLens's model classes.

`TransformerBridge` (TransformerLens 4, and 3.9) and `HookedTransformer` (3.9) differ in caches, masks,
stopping early, starting late and tokenizing. Everything that reads or edits a model goes through an
`Adapter`; nothing outside this folder asks which class it has.
"""

from __future__ import annotations

import importlib.metadata
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import __version__
from ..errors import ArgumentError, HookPointError, ModelError, nearest
from .cache import Cache
from .hooks import add_hook, is_ours
from .origin import origin
from .sites import GATED, SITES

__all__ = ["Adapter", "adapter_for"]


class _Stopped(Exception):
    """Carries the residual out of a forward pass that has read enough."""


class Adapter(ABC):
    """What lensprobe asks of a model. Get one from `adapter_for(model)`; it holds no state of a call.

    Attributes are plain facts: `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_vocab`,
    `context` (tokens), `encoder_decoder`, `tokenizer`. `dtype` and `device` are read from the
    parameters each time, because a user may move the model between two calls.
    """

    line: Literal["bridge", "hooked"]
    mid_is_a_branch: bool = False
    """Whether `resid_mid` is only what the MLP reads, so that writing there misses the stream."""

    def __init__(self, model: Any) -> None:
        # A weak reference: the adapter is cached by model and must not keep it alive.
        self._model = weakref.ref(model)
        cfg = model.cfg
        self.n_layers = int(cfg.n_layers)
        self.d_model = int(cfg.d_model)
        self.n_heads = int(cfg.n_heads)
        self.n_kv_heads = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
        self.d_head = int(cfg.d_head)
        self.d_vocab = int(cfg.d_vocab)
        self.d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
        self.context = int(cfg.n_ctx)
        self.encoder_decoder = False

    @property
    def model(self) -> Any:
        """The user's own TransformerLens model."""
        model = self._model()
        if model is None:
            raise ModelError("the model this adapter was made for no longer exists.")
        return model

    @property
    def name(self) -> str:
        """What results call the model: the name it was loaded by, or the one in its config."""
        known = origin(self.model).get("name")
        return known or str(getattr(self.model.cfg, "model_name", "unnamed"))

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer. Raises `ModelError` where the model has none."""
        tokenizer = getattr(self.model, "tokenizer", None)
        if tokenizer is None:
            raise ModelError(
                "this model has no tokenizer; pass token ids, or set model.tokenizer first."
            )
        return tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; `cfg.dtype` says float32 on a bfloat16 bridge."""
        return self._parameter().dtype

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the first floating-point parameter."""
        return self._parameter().device

    def _parameter(self) -> Tensor:
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                return parameter
        raise ModelError("this model has no floating-point parameters (packed weights?).")

    # ---- names -------------------------------------------------------------------------------

    def width(self, site: str) -> int:
        """Numbers per token at a site; those of all heads together."""
        if site in ("attn.v", "attn.k"):
            return self.n_kv_heads * self.d_head
        if site in ("attn.q", "attn.z"):
            return self.n_heads * self.d_head
        return self.d_mlp if site == "mlp.post" else self.d_model

    def layer(self, layer: int, argument: str = "layer") -> int:
        """A layer index, negatives counted from the end.

        Raises:
            ArgumentError: not a whole number, or out of range.
        """
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise ArgumentError(f"{argument}={layer!r}: a layer is a whole number.")
        index = layer.__index__()
        if not -self.n_layers <= index < self.n_layers:
            raise ArgumentError(
                f"{argument}={index}: this model has {self.n_layers} layers, "
                f"0 to {self.n_layers - 1} (or -{self.n_layers} to -1)."
            )
        return index % self.n_layers

    def layers(self, layers: Any, argument: str = "layers") -> tuple[int, ...]:
        """Layer indices, sorted and without repeats; `"all"` is every layer, an int is one."""
        if isinstance(layers, str):
            if layers != "all":
                raise ArgumentError(f'{argument}={layers!r}: a sequence of layers, or "all".')
            return tuple(range(self.n_layers))
        if isinstance(layers, Tensor | np.ndarray):
            layers = layers.tolist()
        if not isinstance(layers, Iterable):
            return (self.layer(layers, argument),)
        found = sorted({self.layer(layer, argument) for layer in layers})
        if not found:
            raise ArgumentError(f"{argument} is empty; name at least one layer.")
        return tuple(found)

    def hook_name(self, site: str, layer: int) -> str:
        """The hook point of a site, such as `blocks.3.hook_resid_post`.

        Raises:
            HookPointError: the site is unknown, absent from this model, or switched off.
            ArgumentError: the layer is out of range.
        """
        if site not in SITES:
            raise HookPointError(
                f"site={site!r} is not one of {', '.join(SITES)}.{nearest(site, SITES)}"
            )
        name = f"blocks.{self.layer(layer)}.{SITES[site]}"
        self.point(name)
        return name

    def point(self, name: str) -> Any:
        """The `HookPoint` of that name.

        Raises:
            HookPointError: no such point, or it is off and would never fire.
        """
        return self.points([name])[0]

    def points(self, names: Collection[str]) -> list[Any]:
        """The `HookPoint` of each name; see `point`."""
        # The bridge builds this table anew, a millisecond of it, each time it is asked.
        table = self.model.hook_dict
        for name in names:
            self._check_point(name, table)
        return [table[name] for name in names]

    def _check_point(self, name: str, table: Mapping[str, Any]) -> None:
        if name not in table:
            raise HookPointError(
                f"hook point {name!r} does not exist on this model.{nearest(name, table)}"
            )
        for suffix, flag in GATED.items():
            if name.endswith(f".{suffix}") and not getattr(self.model.cfg, flag, False):
                raise HookPointError(
                    f"hook point {name!r} is switched off and would never fire; "
                    f"call model.set_{flag}(True) first."
                )

    def places(self, layers: Collection[int], sites: Iterable[str]) -> dict[str, tuple[int, str]]:
        """Layer and site of each hook point that exists, by its name, layer after layer."""
        table = self.model.hook_dict
        wanted = list(sites)
        found = {
            f"blocks.{layer}.{SITES[site]}": (layer, site) for layer in layers for site in wanted
        }
        return {name: place for name, place in found.items() if name in table}

    def has_site(self, site: str, layer: int = 0) -> bool:
        """Whether a site exists (a parallel block has no `resid_mid`)."""
        try:
            self.hook_name(site, layer)
        except HookPointError:
            return False
        return True

    # ---- facts -------------------------------------------------------------------------------

    def bos(self, bos: Literal["auto"] | bool) -> bool:
        """Whether sequences begin with the BOS token; `"auto"` is what `model.to_tokens` does.

        Raises:
            ArgumentError: BOS is asked for and the tokenizer has none.
        """
        token = getattr(getattr(self.model, "tokenizer", None), "bos_token_id", None)
        if bos == "auto":
            return bool(getattr(self.model.cfg, "default_prepend_bos", True)) and token is not None
        if not isinstance(bos, bool):
            raise ArgumentError(f'bos={bos!r}: "auto", True or False.')
        if bos and token is None:
            raise ArgumentError("bos=True: this model's tokenizer has no BOS token.")
        return bos

    def user_hooks(self) -> tuple[str, ...]:
        """Names of the hook points that carry hooks of the user's own."""
        found = {
            id(point): name
            for name, point in self.model.hook_dict.items()
            if not all(map(is_ours, (*point.fwd_hooks, *point.bwd_hooks)))
        }
        return tuple(sorted(found.values()))

    def require_decoder(self, what: str) -> None:
        """Refuse an encoder-decoder model for an analysis of decoder-only ones.

        Raises:
            ModelError: the model is an encoder-decoder.
        """
        if self.encoder_decoder:
            raise ModelError(f"{what} needs a decoder-only model; this one is an encoder-decoder.")

    def provenance(self) -> dict[str, Any]:
        """What a result stores to be trusted later; JSON values only."""
        known = origin(self.model)
        versions = {
            package: importlib.metadata.version(package)
            for package in ("torch", "transformers", "transformer-lens")
        }
        return {
            "model": self.name,
            "revision": known.get("revision"),
            "source": known.get("source", "a model already loaded"),
            **{key: known[key] for key in ("adapter", "quantisation", "package") if key in known},
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "line": type(self.model).__name__,
            "coordinates": self.coordinates(),
            "user_hooks": list(self.user_hooks()),
            "training": bool(self.model.training),
            "versions": {"lensprobe": __version__, **versions},
        }

    @abstractmethod
    def coordinates(self) -> str:
        """`"raw"`, or how weights were processed (folded, centred), which shifts every residual."""

    @abstractmethod
    def watch(self, report: Callable[[Tensor, Tensor | None, int], None]) -> Callable[[], None]:
        """Call `report(ids, mask, past)` before each pass over token ids; returns the remover."""

    # ---- running -----------------------------------------------------------------------------

    @abstractmethod
    def new_cache(self, batch: int) -> Cache:
        """An empty key-value cache for `batch` rows."""

    def run(
        self,
        inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        start: int = 0,
        stop: int | None = None,
        cache: Cache | None = None,
        logits: Literal["all", "last"] | None = "all",
    ) -> Tensor | None:
        """One forward pass from block `start` up to, not including, block `stop`.

        Args:
            inputs: token ids, or with `start` the residual that enters that block.
            mask: which of these tokens are real; None means all. Earlier tokens' mask is the cache's.
            positions: absolute positions; None counts real tokens from the cache's length on.
            start: first block that runs. Blocks below are not executed.
            stop: None runs everything and returns logits. Otherwise the residual after block
                `stop - 1` is returned, and `stop=n_layers` is the one before the final norm.
            cache: extended by these tokens.
            logits: `"last"` computes them for the newest column only; None returns None.

        Returns:
            Logits `[batch, pos or 1, d_vocab]`, a residual `[batch, pos, d_model]`, or None.
        """
        if logits is None and stop is None:
            stop = self.n_layers
            self._stopping(inputs, mask, positions, start, stop, cache)
            return None
        if stop is not None:
            return self._stopping(inputs, mask, positions, start, stop, cache)
        return self._forward(inputs, mask, positions, start, cache, logits or "all")

    def _stopping(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        stop: int,
        cache: Cache | None,
    ) -> Tensor:
        # One mechanism for both classes: a hook that leaves the pass with what it saw. The bridge's
        # own flag returns logits for stop=n_layers.
        name = self.hook_name("resid_post", stop - 1) if stop else self.hook_name("resid_pre", 0)

        def leave(residual: Tensor, hook: Any) -> None:
            raise _Stopped(residual)

        detach = add_hook(self.point(name), leave)
        try:
            self._forward(inputs, mask, positions, start, cache, "last")
        except _Stopped as stopped:
            return stopped.args[0]
        finally:
            detach()
        raise ModelError(f"hook point {name!r} did not fire during the forward pass.")

    @abstractmethod
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor: ...


_ADAPTERS: weakref.WeakKeyDictionary[Any, Adapter] = weakref.WeakKeyDictionary()


def adapter_for(model: Any) -> Adapter:
    """The adapter of a TransformerLens model, made once per model.

    Raises:
        ModelError: not a TransformerLens model; an unwrapped transformers model is told apart.
    """
    if model in _ADAPTERS:
        return _ADAPTERS[model]
    from .bridge import BridgeAdapter
    from .hooked import HookedAdapter

    names = {cls.__name__ for cls in type(model).__mro__}
    if "TransformerBridge" in names:
        adapter: Adapter = BridgeAdapter(model)
    elif "HookedTransformer" in names:
        adapter = HookedAdapter(model)
    elif "PreTrainedModel" in names:
        raise ModelError(
            f"{type(model).__name__} is a transformers model; "
            "wrap it first: lp.load(model, tokenizer=tokenizer)."
        )
    else:
        raise ModelError(
            f"{type(model).__name__} is not a TransformerLens model; load one with lp.load(name)."
        )
    _ADAPTERS[model] = adapter
    return adapter
