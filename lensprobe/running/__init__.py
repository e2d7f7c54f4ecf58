"""Forward, generate and score under edits and probes."""

from .chat import chat
from .editing import editing
from .forward import Forward, forward
from .generate import Generation, generate
from .score import Score, score
from .session import Session, hooked

__all__ = [
    "Forward",
    "Generation",
    "Score",
    "Session",
    "chat",
    "editing",
    "forward",
    "generate",
    "hooked",
    "score",
]
