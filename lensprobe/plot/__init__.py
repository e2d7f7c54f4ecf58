"""Pure functions from a result to a `plotly` figure. No model is touched and torch is never imported.

`result.plot` is what `views(result)` returns: call it for the default figure, or pick a view by name.

>>> result.plot()                       # doctest: +SKIP
>>> result.plot.landscape(theme="dark") # doctest: +SKIP

Every figure carries `figure.layout.meta["caption"]` (what such a figure shows) and
`figure.layout.meta["finding"]` (what it shows here), both plain text.
"""

from __future__ import annotations

from .views import KINDS, Views, views

__all__ = ["KINDS", "Views", "views"]
