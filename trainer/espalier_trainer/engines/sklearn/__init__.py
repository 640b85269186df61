"""The scikit-learn engine: estimators under the same vocabulary, by a table of what each block becomes."""
