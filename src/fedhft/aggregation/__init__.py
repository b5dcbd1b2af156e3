"""The pure fold of updates into a new version."""
