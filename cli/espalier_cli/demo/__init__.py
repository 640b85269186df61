"""The demo: the product's whole loop on a real cluster, narrated as it happens. `espalier demo --help`.

Nothing here decides an outcome. It uploads data, applies the manifests of `examples/quickstart`, sends traffic, watches what the
cluster does and fails when that is not what the product promises.
"""
