"""Forward, generate and score under edits and probes."""

from .attention import attention
from .attention_result import Attention
from .chat import chat
from .editing import editing
from .forward import Forward, forward
from .generate import Generation, generate
from .score import Score, score
from .session import Session, hooked

__all__ = [
    "Attention",
    "Forward",
    "Generation",
    "Score",
    "Session",
    "attention",
    "chat",
    "editing",
    "forward",
    "generate",
    "hooked",
    "score",
]
