"""The aggregator service: rounds, updates, versions."""
