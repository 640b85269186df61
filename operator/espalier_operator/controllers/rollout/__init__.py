"""CanaryRollout: how a passing version takes over traffic, and how it is undone."""
