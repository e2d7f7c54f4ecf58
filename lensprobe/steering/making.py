"""Steering vectors of any tensor, and what every vector says of the model it was made on."""

from __future__ import annotations

from typing import Any

from ..edits import EDITABLE
from ..errors import ArgumentError, nearest
from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..models.stacks import StackName
from .vector import SteeringVector

__all__ = ["editable", "from_tensor", "made_on", "middle"]


def from_tensor(
    model: Any,
    values: Any,
    *,
    layer: int | None = None,
    site: str = DEFAULT_SITE,
    stack: StackName = None,
) -> SteeringVector:
    """A steering vector of any numbers: a row of an SAE's decoder, a probe's weights, a list.

    Args:
        model: the TransformerLens model whose stream the numbers belong to.
        values: `[width]`, or `[tokens width]` for a row for each token; a tensor, array or list.
        layer: the block they belong to; it must be named.
        site: where in that block. An SAE trained on `hook_resid_pre` of block L has its decoder rows
            at `site="resid_pre", layer=L`.
        stack: "encoder" or "decoder", in an encoder-decoder.

    Raises:
        ArgumentError: no layer or one out of range, another width than the model's, numbers that are
            not finite.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.

    Examples:
        >>> vector = lp.steering.from_tensor(model, [1.0] + [0.0] * 767, layer=2, site="resid_pre")
        >>> vector.site, vector.norm
        ('resid_pre', 1.0)
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.steering.from_tensor")
    if layer is None:
        raise ArgumentError("layer=None: name the block that these numbers belong to.")
    index = editable(adapter, layer, site, stack)
    made = {**made_on(adapter), "method": "given"}
    vector = SteeringVector(values, index, site, adapter.stack(stack).name, made)
    if vector.width != adapter.width(site):
        raise ArgumentError(
            f"values of {vector.width} numbers do not fit {adapter.name!r}: its {site} has "
            f"{adapter.width(site)}."
        )
    return vector


def editable(adapter: Adapter, layer: int, site: str, stack: StackName = None) -> int:
    """The layer's index, where the site is one that edits write to and the model has.

    Raises:
        ArgumentError: another site, or a layer out of range.
        HookPointError: a site that the model does not have.
    """
    if site not in EDITABLE:
        raise ArgumentError(
            f"site={site!r}: vectors are added at {', '.join(EDITABLE)}."
            f"{nearest(str(site), EDITABLE)}"
        )
    index = adapter.layer(layer, stack=stack)
    adapter.hook_name(site, index, stack=stack)
    return index


def middle(adapter: Adapter, layer: int | None, stack: StackName = None) -> int:
    """The layer that was named, or the middle block."""
    return adapter.stack(stack).n_layers // 2 if layer is None else layer


def made_on(adapter: Adapter) -> dict[str, Any]:
    """The model, for a vector's provenance; `architecture` is what a control vector's file names."""
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    known = getattr(config, "model_type", None)
    named = str(getattr(adapter.model.cfg, "original_architecture", None) or "")
    architecture = known or named.removesuffix("ForCausalLM").removesuffix("LMHeadModel").lower()
    return {**adapter.provenance(), "architecture": architecture or None}
