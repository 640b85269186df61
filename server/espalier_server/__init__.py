"""Serves one version of one model: Open Inference Protocol v2, delayed feedback, drift counters, metrics. See
docs/server.md.
"""
