"""Loops above `Engine.fit`: searches, folds, paths, ensembles, soups. Each decides which fits there are and which one is shipped."""
