"""Which plan each client gets, and whether it can fit the agent's memory."""
