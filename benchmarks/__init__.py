"""Measurements that a person can repeat: `python -m benchmarks.<name>`."""
