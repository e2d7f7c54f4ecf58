"""One face for TransformerLens's model classes.

`TransformerBridge` (TransformerLens 4, and 3.9) and `HookedTransformer` (3.9) differ in caches, masks,
stopping early, starting late and tokenizing. Everything that reads or edits a model goes through an
`Adapter`; nothing outside this folder asks which class it has.
"""

from __future__ import annotations

import importlib.metadata
import weakref
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from .. import __version__
from ..errors import ArgumentError, HookPointError, ModelError, nearest
from .hooks import is_ours
from .origin import origin
from .reader import Reader
from .sites import GATED
from .stacks import Stack, StackName

__all__ = ["Adapter", "Report", "adapter_for", "register"]


Report = Callable[[Tensor, Tensor | None, int, StackName], None]


class Adapter(Reader):
    """What lensprobe asks of a model. Get one from `adapter_for(model)`; it holds no state of a call.

    Attributes are plain facts: `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_vocab`,
    `context` (tokens), `encoder_decoder`, `stacks` (the one that writes text is the last), `tokenizer`,
    `closes_texts` (whether a text ends with EOS, as in T5), `start` (the tokens that a decoder behind
    an encoder begins with).
    `dtype` and `device` are read from the
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
        self.closes_texts = False
        self.start: tuple[int, ...] = ()
        self.stacks: tuple[Stack, ...] = (Stack(None, self.n_layers),)

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

    def width_at(self, site: str, layers: Any, *, stack: StackName = None) -> int:
        """`width` at some layers; only networks whose layers differ in width look at which.

        Raises:
            ArgumentError: these layers differ in width.
        """
        return self.width(site)

    @property
    def writer(self) -> Stack:
        """The stack whose last token predicts the next one."""
        return self.stacks[-1]

    def stack(self, name: StackName = None) -> Stack:
        """One of this model's stacks; None is the one stack of a model that is no encoder-decoder.

        Raises:
            ArgumentError: an encoder-decoder and no name, a decoder-only model's encoder.
        """
        if name not in ("encoder", "decoder", None):
            raise ArgumentError(f'stack={name!r}: "encoder", "decoder" or None.')
        if len(self.stacks) > 1 and name is None:
            raise ArgumentError(
                'stack=None: this is an encoder-decoder; say "encoder" or "decoder".'
            )
        if len(self.stacks) == 1 and name == "encoder":
            raise ArgumentError("stack='encoder': this is a decoder-only model; it has no encoder.")
        return next((stack for stack in self.stacks if stack.name == name), self.writer)

    def layer(self, layer: Any, argument: str = "layer", *, stack: StackName = None) -> int:
        """A layer index, negatives counted from the end.

        Raises:
            ArgumentError: not a whole number, or out of range.
        """
        return self.stack(stack).layer(layer, argument)

    def layers(
        self, layers: Any, argument: str = "layers", *, stack: StackName = None
    ) -> tuple[int, ...]:
        """Layer indices, sorted and without repeats; `"all"` is every layer, an int is one."""
        return self.stack(stack).layers(layers, argument)

    def hook_name(self, site: str, layer: int, *, stack: StackName = None) -> str:
        """The hook point of a site, such as `blocks.3.hook_resid_post`.

        Raises:
            HookPointError: the site is unknown, absent from this model, or switched off.
            ArgumentError: the layer is out of range.
        """
        name = self.stack(stack).point(site, layer)
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
        point = self.writer.point
        found = {point(site, layer): (layer, site) for layer in layers for site in wanted}
        return {name: place for name, place in found.items() if name in table}

    def has_site(self, site: str, layer: int = 0, *, stack: StackName = None) -> bool:
        """Whether a site exists (a parallel block has no `resid_mid`)."""
        try:
            self.hook_name(site, layer, stack=stack)
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

    def require_text(self, what: str) -> None:
        """Refuse a network that reads no text.

        Raises:
            ModelError: it does not.
        """

    def require_runnable(self, what: str) -> None:
        """Refuse an encoder-decoder whose two stacks cannot be run here.

        Raises:
            ModelError: an encoder-decoder outside the T5 family, or one that TransformerLens 3.9 has
                loaded alone.
        """
        if self.encoder_decoder:
            raise ModelError(
                f"{what} runs encoder-decoders of the T5 family; on TransformerLens 3.9 those that "
                f"lp.load has loaded. This is a {type(self.model.original_model).__name__} on "
                f"{importlib.metadata.version('transformer-lens')}."
            )

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
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": self.d_model,
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
    def norm_point(self, layer: int) -> tuple[str, Tensor | None]:
        """The hook point at the norm that a layer's attention reads through.

        What stands there is still multiplied by the second value, `[d_model]`; None is nothing.

        Raises:
            HookPointError: a layer whose attention reads the stream as it is.
        """

    @abstractmethod
    def watch(self, report: Report) -> Callable[[], None]:
        """Call `report(ids, mask, past, stack)` before each pass over ids; returns the remover."""

    # ---- running -----------------------------------------------------------------------------

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Reader:
        """Run the encoder, once; the answer reads the decoder's tokens.

        Raises:
            ModelError: a decoder-only model.
        """
        raise ModelError("this model has no encoder that could be run.")

    def fused(self) -> AbstractContextManager[None]:
        """Passes inside the block may leave out scores and patterns that no hook is attached to."""
        return nullcontext()

    @override
    def exit_point(self, stop: int | None) -> Any:
        stop = self.n_layers if stop is None else stop
        site, layer = ("resid_post", stop - 1) if stop else ("resid_pre", 0)
        return self.point(self.hook_name(site, layer, stack=self.writer.name))


_ADAPTERS: weakref.WeakKeyDictionary[Any, Adapter] = weakref.WeakKeyDictionary()
_MAKERS: dict[type, Callable[[Any], Adapter]] = {}


def register(kind: type, maker: Callable[[Any], Adapter]) -> None:
    """Say which adapter a class of models outside this folder has."""
    _MAKERS[kind] = maker


def adapter_for(model: Any) -> Adapter:
    """The adapter of a TransformerLens model, made once per model.

    Raises:
        ModelError: not a TransformerLens model; an unwrapped transformers model is told apart.
    """
    if model in _ADAPTERS:
        return _ADAPTERS[model]
    from .bridge import BridgeAdapter
    from .hooked import HookedAdapter
    from .seq2seq import Seq2SeqAdapter, runs

    own = [_MAKERS[cls] for cls in type(model).__mro__ if cls in _MAKERS]
    names = {cls.__name__ for cls in type(model).__mro__}
    if own:
        adapter: Adapter = own[0](model)
    elif "TransformerBridge" in names:
        adapter = (Seq2SeqAdapter if runs(model) else BridgeAdapter)(model)
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
