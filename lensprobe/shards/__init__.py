"""Runs in pieces: what is finished is kept on the disk, and a run that was killed goes on there."""

from __future__ import annotations

from .files import DamagedError, fingerprint
from .folder import Folder, Kept

__all__ = ["DamagedError", "Folder", "Kept", "fingerprint"]
