"""Serves one immutable version over the Open Inference Protocol v2, with feedback, drift counters and metrics."""
