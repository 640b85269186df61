"""From a trained model to a published version: one graph, a folder of files, a manifest that makes them final."""
