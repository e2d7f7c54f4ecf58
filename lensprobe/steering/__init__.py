"""Activation additions: vectors, where they are added, and what adding them does."""

from __future__ import annotations

__all__: list[str] = []
