"""Settings of the check: the agent's own, and three more."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from fedhft_agent.settings import AgentSettings


class CheckSettings(AgentSettings):
    """Settings of `fedhft agent check`."""

    program: ClassVar[str] = "fedhft_agent check"
    about: ClassVar[str] = "Says whether this machine's agent would work, and if not, why. Changes nothing."

    job_file: Path | None = Field(
        None, description="job file to check data, model and rules against, instead of the jobs that the server offers"
    )
    output: Literal["table", "json"] = Field("table", description="lines for people, or a list for programs")
    patience: float = Field(120.0, gt=0, le=86400, description="seconds that each check may take")
