"""`check`: what a model is, and which analyses run on it."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import LensprobeError
from ..small_table import small_table
from .adapter import Adapter, adapter_for
from .lora import packed
from .origin import origin
from .sites import SITES
from .stacks import Stack
from .weights import weights_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Check", "check", "sliding_layers", "text_config"]

_NEEDS: dict[str, tuple[str, ...]] = {
    "lp.forward": ("resid_post",),
    "lp.score": ("resid_post",),
    "lp.generate": ("resid_post",),
    "lp.editing": ("resid_post",),
    "lp.attention": ("attn.pattern",),
    "lp.chat": ("chat template",),
    "lp.interpolation.generate": ("weights", "resid_post"),
    "lp.interpolation.learn": ("weights", "resid_post"),
    "lp.interpolation.loss": ("weights", "resid_post"),
    "lp.interpolation.score": ("weights", "resid_post"),
    "lp.interpolation.surprise": ("weights", "resid_post"),
    "lp.interpolation.sweep": ("weights", "resid_post"),
    "lp.interpolation.trace": ("weights", "resid_post"),
    "lp.massive.ablate": ("resid_post", "attn.v", "attn.pattern"),
    "lp.massive.anatomy": ("weights", "resid_post", "attn.z"),
    "lp.massive.bos_pull": ("resid_pre", "attn.pattern", "first norm"),
    "lp.massive.gradient": ("resid_post", "attn.k", "attn.v", "attn.z", "attn.pattern"),
    "lp.massive.rescale": ("resid_post", "attn.v", "attn.pattern"),
    "lp.massive.scan": ("resid_post",),
    "lp.massive.train_and_watch": ("weights", "resid_post"),
    "lp.massive.tokens": ("resid_post", "attn.pattern"),
    "lp.massive.trajectory": ("resid_post",),
    "lp.sinks.brittle": ("resid_post", "attn_out", "attn.pattern"),
    "lp.sinks.cause": ("resid_post", "attn.v", "attn.pattern"),
    "lp.sinks.clusters": ("weights", "resid_post", "attn.v", "attn.pattern"),
    "lp.sinks.dedicate": ("resid_post", "mlp_out", "attn.pattern"),
    "lp.sinks.evict": ("attn.pattern",),
    "lp.sinks.first_token_detector": ("weights", "attn.z"),
    "lp.sinks.neurons": ("weights", "resid_post", "mlp.post", "attn.pattern"),
    "lp.sinks.patch": ("resid_pre", "resid_post", "attn.pattern"),
    "lp.sinks.repeats": ("resid_post", "attn.pattern"),
    "lp.sinks.scan": ("attn.pattern", "attn.v", "resid_post"),
    "lp.sinks.scores": ("weights", "attn.q", "attn.k", "attn.pattern"),
    "lp.sinks.values": ("weights", "attn.q", "attn.k", "attn.v"),
    "lp.steering.calibrate": ("resid_post",),
    "lp.steering.compare_depth": ("resid_post",),
    "lp.steering.compare_persistence": ("resid_post",),
    "lp.steering.compare_positions": ("resid_post",),
    "lp.steering.compare_sites": ("resid_post", "attn.v"),
    "lp.steering.compare_stacks": ("resid_post",),
    "lp.steering.contrast": ("resid_post",),
    "lp.steering.difference": ("resid_post",),
    "lp.steering.mixing": ("resid_post",),
    "lp.steering.stability": ("resid_post",),
    "lp.steering.sweep": ("resid_post",),
    "lp.report": ("resid_post", "attn.pattern", "attn.v"),
}
"""What each analysis needs, in every stack of the model."""

_BOTH_KINDS = (
    *("lp.forward", "lp.score", "lp.generate", "lp.editing"),
    *("lp.steering.compare_stacks", "lp.steering.mixing"),
)
"""What runs on encoder-decoders too; everything else needs a decoder-only model."""


@dataclass(frozen=True, repr=False)
class Check:
    """What `check` found. Prints itself; `print(lp.check(model))` is the usual way to read it.

    Attributes:
        facts: layers, heads, context, BOS policy, dtype and the like, each in words.
        analyses: for each analysis why it does not run on this model; an empty string when it does.
        notes: what is worth knowing before trusting a number.
    """

    facts: dict[str, str]
    analyses: dict[str, str]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        wide = max(map(len, (*self.facts, *self.analyses))) + 2
        lines = [f"{name:<{wide}}{value}" for name, value in self.facts.items()]
        lines += ["", *(f"{name:<{wide}}{words}" for name, words in self._rows())]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        runs = sum(not why for why in self.analyses.values())
        return (
            f"{small_table(self.facts.items(), 'Check')}{notes}"
            f"<details><summary>{runs} of {len(self.analyses)} analyses run</summary>"
            f"{small_table(self._rows())}</details>"
        )

    def _rows(self) -> list[tuple[str, str]]:
        return [
            (name, f"does not run: {why}" if why else "runs") for name, why in self.analyses.items()
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row an analysis: `analysis`, `runs`, `why`."""
        import pandas as pd

        rows = [(name, not why, why) for name, why in self.analyses.items()]
        return pd.DataFrame(rows, columns=["analysis", "runs", "why"])


def check(model: Any) -> Check:
    """Say what an analysis needs to know about a model, and which analyses run on it.

    Reads configuration and names only: no forward pass, and nothing is changed.

    Args:
        model: a TransformerLens model, from `lp.load` or not.

    Returns:
        A `Check`, which prints itself.

    Raises:
        ModelError: not a TransformerLens model, or one whose structure lensprobe cannot read.

    Examples:
        >>> found = lp.check(model)
        >>> found.facts["layers"], found.facts["heads"]
        ('6', '12, 64 wide')
        >>> found.analyses["lp.sinks.scan"] == ""  # nothing stands against it
        True
    """
    adapter = adapter_for(model)
    adapter.require_text("lp.check")
    config = text_config(model)
    return Check(
        facts=_facts(adapter, config),
        analyses={name: _obstacle(adapter, config, name) for name in _NEEDS},
        notes=tuple(_notes(adapter, config)),
    )


def text_config(model: Any) -> Any:
    """The configuration that says most: transformers' own on a bridge, TransformerLens's else."""
    wrapped = getattr(model, "original_model", None)
    if wrapped is None:
        return model.cfg
    return wrapped.config.get_text_config(decoder=True)


def _facts(adapter: Adapter, config: Any) -> dict[str, str]:
    model = adapter.model
    known = origin(model)
    heads = str(adapter.n_heads)
    if adapter.n_kv_heads != adapter.n_heads:
        heads += f" queries over {adapter.n_kv_heads} keys and values"
    facts = {
        "model": adapter.name,
        "class": type(model).__name__,
        "from": known.get("source", "loaded outside lensprobe"),
        "kind": "encoder-decoder" if adapter.encoder_decoder else "decoder-only",
        "layers": _of_stacks(adapter, lambda stack: str(stack.n_layers)),
        "heads": f"{heads}, {adapter.d_head} wide",
        "width": str(adapter.d_model),
        "vocabulary": f"{adapter.d_vocab:,}",
        "context": f"{adapter.context:,} tokens",
        "positions": str(getattr(model.cfg, "positional_embedding_type", "unknown")),
        "attention": _attention(adapter, config),
        "BOS": _bos(adapter),
        "dtype": _plain(adapter, "dtype"),
        "device": _plain(adapter, "device"),
        "weights": _weights(adapter, known),
        "coordinates": adapter.coordinates(),
        "sites": _of_stacks(adapter, lambda stack: _sites(adapter, stack)),
        "your hooks": ", ".join(adapter.user_hooks()) or "none",
    }
    if known.get("revision"):
        facts["from"] += f", revision {known['revision']}"
    return facts


def _of_stacks(adapter: Adapter, words: Callable[[Stack], str]) -> str:
    """What is to be said of the one stack, or of each by its name."""
    if len(adapter.stacks) == 1:
        return words(adapter.writer)
    return "; ".join(f"{stack.name} {words(stack)}" for stack in adapter.stacks)


def _sites(adapter: Adapter, stack: Stack) -> str:
    found = [site for site in SITES if adapter.has_site(site, stack=stack.name)]
    return ", ".join(found) or "none"


def _plain(adapter: Adapter, what: str) -> str:
    """The parameters' dtypes or devices, all of them where they differ."""
    found = [str(getattr(p, what)) for p in adapter.model.parameters()]
    return ", ".join(dict.fromkeys(name.removeprefix("torch.") for name in found)) or "unknown"


def _weights(adapter: Adapter, known: dict[str, Any]) -> str:
    if packed(adapter.model):
        return "packed; activations can be read, weights cannot"
    words = "plain"
    if known.get("quantisation"):
        words += f", unpacked from {known['quantisation']}"
    return words + (f", adapter {known['adapter']} merged" if known.get("adapter") else "")


def _bos(adapter: Adapter) -> str:
    tokenizer = getattr(adapter.model, "tokenizer", None)
    if tokenizer is None:
        return "no tokenizer"
    if tokenizer.bos_token_id is None:
        return "the tokenizer has none"
    put = "prepended" if adapter.bos("auto") else "not prepended"
    return f"{tokenizer.bos_token!r} ({tokenizer.bos_token_id}), {put} by default"


def _attention(adapter: Adapter, config: Any) -> str:
    words = ["causal"]
    if adapter.encoder_decoder:
        words = ["both ways in the encoder", "causal in the decoder, and on what the encoder read"]
    layers, width = sliding_layers(adapter, config)
    if width is not None:
        where = "every layer" if layers == adapter.n_layers else f"{layers} of its layers"
        words.append(f"sliding over {width:,} tokens in {where}")
    if _normed(adapter):
        words.append("queries and keys normed")
    cap = getattr(adapter.model.cfg, "attn_scores_soft_cap", None)
    if cap is not None and cap > 0:
        words.append(f"scores capped at {cap:g}")
    return ", ".join(words)


def sliding_layers(adapter: Adapter, config: Any) -> tuple[int, int | None]:
    """How many layers attend within a window, and how wide it is; None without one."""
    if adapter.line == "hooked":
        kinds = getattr(config, "attn_types", None) or ["local"] * adapter.n_layers
        local = sum(kind == "local" for kind in kinds)
        return (local, config.window_size) if config.use_local_attn and local else (0, None)
    width = getattr(config, "sliding_window", None)
    if not width or getattr(config, "use_sliding_window", True) is False:
        return 0, None
    kinds = getattr(config, "layer_types", None)
    layers = adapter.n_layers if kinds is None else sum("sliding" in kind for kind in kinds)
    return (layers, int(width)) if layers else (0, None)


def _normed(adapter: Adapter) -> bool:
    if getattr(adapter.model.cfg, "use_qk_norm", False):
        return True
    return any(".q_norm." in name for name in adapter.model.hook_dict)


def _obstacle(adapter: Adapter, config: Any, analysis: str) -> str:
    try:
        if analysis in _BOTH_KINDS:
            adapter.require_runnable(analysis)
        else:
            adapter.require_decoder(analysis)
        for need in _NEEDS[analysis]:
            if need == "chat template":
                if not getattr(getattr(adapter.model, "tokenizer", None), "chat_template", None):
                    return "the tokenizer has no chat template"
                continue
            if need == "weights":
                weights_of(adapter)
                continue
            if need == "first norm":
                for layer in range(adapter.n_layers):
                    adapter.norm_point(layer)
                continue
            for stack in adapter.stacks:
                for layer in range(stack.n_layers):
                    adapter.hook_name(need, layer, stack=stack.name)
            kernel = getattr(config, "_attn_implementation", "eager")
            if need == "attn.pattern" and adapter.line == "bridge" and kernel != "eager":
                return f"attention is computed by {kernel}, which keeps no pattern; load it eager"
    except LensprobeError as error:
        return str(error)
    return ""


def _notes(adapter: Adapter, config: Any) -> list[str]:
    notes = []
    if getattr(adapter.model, "tokenizer", None) is None:
        notes.append("no tokenizer: every analysis takes token ids only.")
    if adapter.user_hooks():
        notes.append("your hooks stay attached and active; every number is measured under them.")
    _, width = sliding_layers(adapter, config)
    if width is not None:
        notes.append(
            f"in sliding layers position 0 is out of sight after {width:,} tokens, "
            "so sinks on it fade there in longer texts."
        )
    if adapter.coordinates() != "raw":
        notes.append(
            "the weights were processed: residual values differ from published ones "
            f"({adapter.coordinates()})."
        )
    if adapter.model.training:
        notes.append(
            "the model is in training mode: dropout changes every pass; call model.eval()."
        )
    return notes
