"""Developers' tools behind the Makefile: environment, checks, generated files, test stages."""
