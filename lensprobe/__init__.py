"""lensprobe: find, explain, edit and show what a TransformerLens model keeps in its residual stream.

Names are loaded when they are first used, so that `lensprobe --help` and the figures never wait for
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import explore, interpolation, massive, mnist, positions, sinks, steering
    from .comparing import compare, over, side_by_side
    from .edits import Add, Clamp, Mix, ProjectOut, Scale, Set
    from .errors import Interrupted, LensprobeError
    from .models import check, load
    from .reporting import gallery, report
    from .results import open_result as open
    from .running import attention, chat, editing, forward, generate, score
    from .settings import options
    from .tokens import TokenBatch

__version__ = "0.1.0"

_HOMES = {
    "Add": ("edits", "Add"),
    "Clamp": ("edits", "Clamp"),
    "Interrupted": ("errors", "Interrupted"),
    "LensprobeError": ("errors", "LensprobeError"),
    "Mix": ("edits", "Mix"),
    "ProjectOut": ("edits", "ProjectOut"),
    "Scale": ("edits", "Scale"),
    "Set": ("edits", "Set"),
    "TokenBatch": ("tokens", "TokenBatch"),
    "attention": ("running", "attention"),
    "chat": ("running", "chat"),
    "check": ("models", "check"),
    "compare": ("comparing", "compare"),
    "editing": ("running", "editing"),
    "explore": ("explore", None),
    "forward": ("running", "forward"),
    "gallery": ("reporting", "gallery"),
    "generate": ("running", "generate"),
    "interpolation": ("interpolation", None),
    "load": ("models", "load"),
    "massive": ("massive", None),
    "mnist": ("mnist", None),
    "open": ("results", "open_result"),
    "options": ("settings", "options"),
    "over": ("comparing", "over"),
    "positions": ("positions", None),
    "report": ("reporting", "report"),
    "score": ("running", "score"),
    "side_by_side": ("comparing", "side_by_side"),
    "sinks": ("sinks", None),
    "steering": ("steering", None),
}

__all__ = [
    "Add",
    "Clamp",
    "Interrupted",
    "LensprobeError",
    "Mix",
    "ProjectOut",
    "Scale",
    "Set",
    "TokenBatch",
    "attention",
    "chat",
    "check",
    "compare",
    "editing",
    "explore",
    "forward",
    "gallery",
    "generate",
    "interpolation",
    "load",
    "massive",
    "mnist",
    "open",
    "options",
    "over",
    "positions",
    "report",
    "score",
    "side_by_side",
    "sinks",
    "steering",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from .errors import nearest

        raise AttributeError(f"module 'lensprobe' has no {name!r}.{nearest(name, _HOMES)}")
    module, attribute = _HOMES[name]
    home = importlib.import_module(f".{module}", __name__)
    value = home if attribute is None else getattr(home, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
