"""Attention sinks: keys near the start that most queries of most heads attend to."""

from __future__ import annotations

from .result import SinkScan
from .scan import scan

__all__ = ["SinkScan", "scan"]
