"""The Espalier operator: observe, decide, apply, for three kinds.

Layers, lowest first: `espalier_api` < `decisions` < `adapters` < `controllers` < `main`. Decisions are pure functions
from observations to a `Plan`; adapters talk to one outside thing each; controllers join them; `main` embeds all of it
in kopf.
"""
