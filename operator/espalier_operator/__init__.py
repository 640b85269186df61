"""The Kubernetes operator: pure decisions, thin adapters and controllers, embedded in kopf."""
