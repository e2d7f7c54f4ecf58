"""One self-contained HTML page from one result or from several.

`lp.report(model, texts)` runs the scans and returns a `Report`; `.to_html(path)` writes the page. Any
single result has `.to_html` too: both go through the same parts.
"""

from __future__ import annotations

from .gallery import Gallery, gallery
from .report import Report, report

__all__ = ["Gallery", "Report", "gallery", "report"]
