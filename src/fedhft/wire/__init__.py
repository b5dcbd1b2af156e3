"""Masked deltas to bytes and back."""
