"""Which plans of a tier an agent carries out: whole ones, or, where capacity is planned by, those of fewer layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from fedhft_agent.check.files import _plan_of_job
from fedhft_agent.check.findings import Status
from fedhft_agent.check.scene import Fit, Scene
from fedhft_agent.check.settings import CheckSettings
from fedhft_agent.tier_fit import tier_fit

from fedhft.adapter import AdapterSchema
from fedhft.ids import ClientId
from fedhft.job import JobSpec
from fedhft.plan import AdapterPlan
from fedhft.planning.peak import Unfit
from fedhft.records import PlanTooLarge
from fedhft.training.worker import ClientWorker
from tests.light import light_job, light_schema

LAYERS = 12
MIB = 1 << 20


@dataclass
class Holding:
    """A client whose memory holds so many layers, at a MiB each."""

    spec: JobSpec
    most: int
    client: str = "ash"
    schema: AdapterSchema = field(default_factory=lambda: light_schema(layers=LAYERS))
    asked: list[int] = field(default_factory=list)

    def fit(self, plan: AdapterPlan) -> Unfit | None:
        self.asked.append(plan.depth)
        return Unfit(plan.depth * MIB, self.most * MIB) if plan.depth > self.most else None


def found(most: int, **changes: Any) -> tuple[tuple[int, Unfit | None], list[int]]:
    client = Holding(light_job("j", **changes), most)
    fit = tier_fit(cast(ClientWorker, client), "standard")
    return (fit.layers, fit.lacking), client.asked


CAPACITY = {"method": {"preset": "legend"}, "adapter": {"rank": 4, "ranks": "uniform"}}


@pytest.mark.parametrize("changes", [{}, CAPACITY])
def test_a_plan_that_fits_is_asked_for_once(changes: dict[str, Any]) -> None:
    assert found(LAYERS, **changes) == ((LAYERS, None), [LAYERS])


def test_a_tier_s_plan_fits_whole_or_not_at_all() -> None:
    assert found(LAYERS - 1) == ((0, Unfit(LAYERS * MIB, (LAYERS - 1) * MIB)), [LAYERS])


@pytest.mark.parametrize("most", range(LAYERS))
def test_where_capacity_is_planned_by_the_most_layers_that_fit_are_found(most: int) -> None:
    (layers, lacking), asked = found(most, **CAPACITY)
    assert (layers, lacking) == (most, Unfit(LAYERS * MIB, most * MIB))
    assert len(asked) <= 5  # each time the network is set to another depth


def test_the_check_says_how_many_layers_an_agent_would_train() -> None:
    settings = CheckSettings(server="127.0.0.1:1", client=ClientId("ash"), data="x", metrics_port=None)
    spec = light_job("j", **CAPACITY)
    too_large = (PlanTooLarge(tier="standard", needed=12 * MIB, allowed=5 * MIB),)
    scene = Scene(settings, fits={"j": Fit("standard", too_large, 5)})
    told = _plan_of_job(scene, spec)
    assert told.status is Status.WARNING
    assert told.detail.startswith(
        "job j: the plan of tier standard needs 12.0 MiB of 5.0 MiB, so the agent trains at most 5"
    )
