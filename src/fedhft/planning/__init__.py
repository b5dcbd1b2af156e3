"""Which plan each client gets, and whether it can fit the memory an agent was given."""
