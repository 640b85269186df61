"""The XGBoost engine: boosted trees under the same vocabulary, by a table of what each block becomes."""
