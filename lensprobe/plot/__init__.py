"""Pure functions from a result to a `plotly` figure. No model is touched and torch is never imported.

`result.plot` is what `views(result)` returns: call it for the default figure, or pick a view by name.

>>> import lensprobe as lp
>>> scan = lp.massive.scan(lp.load("planted"), "The cat sat.")
>>> scan.plot().layout.title.text
'The largest values in the residual stream'
>>> scan.plot.landscape(theme="dark").layout.title.text
'Tokens × dimensions at layer 1'

Every figure carries `figure.layout.meta["caption"]` (what such a figure shows) and
`figure.layout.meta["finding"]` (what it shows here), both plain text.
"""

from __future__ import annotations

from .views import KINDS, Views, views

__all__ = ["KINDS", "Views", "views"]
