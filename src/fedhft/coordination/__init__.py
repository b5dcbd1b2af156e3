"""Drives a job over a store: opens rounds, folds them, keeps memberships, builds tasks."""
