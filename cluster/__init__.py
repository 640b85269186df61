"""A real ``kind`` cluster, also on a host without an engine or a registry.

``python -m cluster up`` is the way in; :class:`cluster.handle.Cluster` is what
the rest of the house gets to work with.
"""

from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.progress import Progress

__all__ = ["Cluster", "ClusterError", "Progress"]
