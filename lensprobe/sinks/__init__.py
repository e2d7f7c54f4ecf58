"""Attention sinks: keys near the start that most queries of most heads attend to."""

from __future__ import annotations

from .brittle import brittle
from .brittle_result import Brittle
from .cause import cause
from .cause_result import Cause
from .clusters import clusters
from .clusters_result import Clusters
from .dedicate import dedicate
from .dedicate_result import Dedicate
from .detector import first_token_detector
from .detector_result import FirstTokenDetector
from .evict import evict
from .evict_result import Evict
from .neurons import neurons
from .neurons_result import Neurons
from .patch import patch
from .patch_result import Patch
from .repeats import repeats
from .repeats_result import Repeats
from .result import SinkScan
from .scan import scan
from .scores import scores
from .scores_result import SinkScores
from .values import SinkValues, values

__all__ = [
    "Brittle",
    "Cause",
    "Clusters",
    "Dedicate",
    "Evict",
    "FirstTokenDetector",
    "Neurons",
    "Patch",
    "Repeats",
    "SinkScan",
    "SinkScores",
    "SinkValues",
    "brittle",
    "cause",
    "clusters",
    "dedicate",
    "evict",
    "first_token_detector",
    "neurons",
    "patch",
    "repeats",
    "scan",
    "scores",
    "values",
]
