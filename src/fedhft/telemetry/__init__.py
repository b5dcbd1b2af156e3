"""Metrics, logs and the pages that serve them."""
