"""How long a coordinator that died keeps its job. Apart from what uses it, since settings are read before all else."""

from __future__ import annotations

LEASE_MS = 15_000
"""Where the process says nothing else."""
