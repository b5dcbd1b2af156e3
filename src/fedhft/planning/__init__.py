"""Which plan each client gets."""
