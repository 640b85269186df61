"""Container images without a registry: one Dockerfile per image, tags that are content hashes, archives in a cache.

``python -m images --help`` tells the verbs; docs/images.md tells the rest.
"""
