"""What an agent says of a job that its owner does not allow: to the server each time, to its owner once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from fedhft_agent.agent import Presence, _Agent
from fedhft_agent.connection import LONGEST_REASON, Connection, Peer
from fedhft_agent.settings import AgentSettings
from fedhft_agent.state_directory import StateDirectory

from fedhft.ids import ClientId
from fedhft.process.signals import StopSignal
from fedhft.rounds.joining import MAX_REASON, decline_reason
from fedhft.v1 import federation_pb2
from tests.integration.scripted_federation import ScriptedFederation, served
from tests.light import light_job


def test_the_owners_log_says_a_decline_once_and_the_server_is_told_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service, stop = ScriptedFederation(), StopSignal()
    spec_json = light_job("long", rounds={"total": 9}).canonical()
    offer = federation_pb2.JobOffer(job="long", spec_digest=hashlib.sha256(spec_json.encode()).digest())
    service.offers["long"] = federation_pb2.JobOffer(job="long", spec_digest=offer.spec_digest, spec_json=spec_json)
    with served(service) as server, Connection(Peer(server.address, ClientId("ash")), stop) as connection:
        connection.enroll()
        settings = AgentSettings(server=server.address, client="ash", data="none.jsonl", most_rounds=5)
        agent = _Agent(settings, StateDirectory(tmp_path), connection, stop, Presence())
        with caplog.at_level(logging.DEBUG, logger="fedhft_agent.agent"):
            for _ in range(3):
                assert agent._take(offer) is None
    said = [(record.levelname, record.message) for record in caplog.records if record.message == "job declined"]
    assert said == [("ERROR", "job declined"), ("DEBUG", "job declined"), ("DEBUG", "job declined")]
    assert [job for job, _ in service.declined] == ["long"] * 3
    assert "rounds.total = 9 is above most_rounds = 5" in service.declined[0][1]


def test_a_reason_is_made_one_short_line_of_text_such_as_the_server_takes() -> None:
    assert LONGEST_REASON == MAX_REASON
    service = ScriptedFederation()
    with served(service) as server, Connection(Peer(server.address, ClientId("ash")), StopSignal()) as connection:
        connection.enroll()
        connection.decline("job", "two\nlines \x1b[2J and " + "much " * 200)
    ((_, reason),) = service.declined
    assert reason.startswith("two lines  [2J and much")
    assert len(reason) == MAX_REASON
    assert decline_reason(reason) == reason
