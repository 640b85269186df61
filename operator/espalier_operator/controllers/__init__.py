"""Thin loops per kind: observe from caches, decide purely, apply the plan."""
