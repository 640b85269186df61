"""The torch engine: an explicit loop that walks the stages of protocol.py."""
