"""Talking to an aggregator about jobs: what the command line and the demo share."""
