"""Attention sinks: keys near the start that most queries of most heads attend to."""

from __future__ import annotations

from .evict import evict
from .evict_result import Evict
from .result import SinkScan
from .scan import scan

__all__ = ["Evict", "SinkScan", "evict", "scan"]
