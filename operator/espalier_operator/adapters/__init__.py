"""One module per outside thing (API server, watches, Prometheus, object store, events, traffic), each behind a small
Protocol.
"""
