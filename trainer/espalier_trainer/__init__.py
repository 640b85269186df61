"""Runs inside a training Job: trains one version along its declared regularizers and writes the artifact."""
