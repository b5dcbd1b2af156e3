"""The clusterer service: signatures in, memberships out."""
