"""Late layers that see the token that really came next, in place of the guess they made."""

from __future__ import annotations

__all__: list[str] = []
