"""`espalier`, also `kubectl espalier`: look at models and canaries, act on them, lint manifests."""
