"""Evidently's report: do test rows look like training rows, and how well are both answered? HTML for people, JSON for programs.

It shows distributions of rows, so R37 refuses it beside privacy. Its numbers judge nothing: gates look at metrics.json.
"""

from __future__ import annotations

from typing import Final

MOST_ROWS: Final = 5_000
"""Of each part, evenly spaced: the report is for eyes."""
MOST_FEATURES: Final = 100
"""The first ones; a page with more is no page."""
TARGET, PREDICTION = "target", "prediction"
