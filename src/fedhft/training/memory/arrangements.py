"""How one client carries out plans within its memory, found once for each of their shapes."""

from __future__ import annotations

from fedhft.plan import AdapterPlan
from fedhft.planning.peak import LEAST, Arrangement, Unfit
from fedhft.training.client_rows import ClientRows
from fedhft.training.memory.fitting import fitted
from fedhft.training.network import Network


class Arrangements:
    """Ways to carry out plans. batch_size: rows of a step. memory: bytes that the process may use; 0: any."""

    def __init__(self, network: Network, rows: ClientRows, batch_size: int, memory: int) -> None:
        self.memory = memory
        self._network = network
        self._rows = rows
        self._batch_size = batch_size
        self._found: dict[tuple[int, float, int, bool, bool], Arrangement | Unfit] = {}

    def fit(self, plan: AdapterPlan) -> Unfit | None:
        """Find out how to carry out a plan, and have the network do so; None, or what it lacks.

        Found once for each depth, density and rank; in what takes little, even for one that does not fit.
        """
        shape = (plan.depth, plan.density, plan.rank, plan.train_a, plan.train_b)
        if shape not in self._found:
            rows = self._rows
            self._found[shape] = fitted(
                self._network, rows.longest, plan, self._batch_size, rows.most_scored, self.memory
            )
            self._network.stopwatch.take(1)  # passes of a few rows say little about speed
        found = self._found[shape]
        self._network.arrangement = LEAST if isinstance(found, Unfit) else found
        return found if isinstance(found, Unfit) else None
