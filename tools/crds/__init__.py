"""Generates what api/ decides: CRDs, the chart's copy of them, docs/api.md. `make crds` writes, `make check` fails on drift."""
