"""Names and numbers in the documents are the code's."""

from __future__ import annotations

import re

import pytest
from fedhft_agent import after_refusal, agent, connection, heartbeat, offers
from fedhft_aggregator import clusterer_client, failpoints, federation_service, intake, transfer_places, uploads
from fedhft_aggregator.settings import AggregatorSettings
from fedhft_clusterer.settings import ClustererSettings

from fedhft.aggregation.fold import BLOCK
from fedhft.cli import job_views
from fedhft.cli.server_options import DEFAULT_SERVER
from fedhft.clustering import choice, fitting, partition, prediction, selection, signature
from fedhft.coordination import lease, tidying
from fedhft.errors import OUTCOMES, ErrorCode
from fedhft.jobs.client import JobsClient
from fedhft.methods import PRESETS
from fedhft.process import pages
from fedhft.records import JobStatus, Phase
from fedhft.reporting import table
from fedhft.rounds import paging, patience, retention
from fedhft.rpc.channel import ChannelSettings
from fedhft.rpc.server import ServerSettings
from fedhft.store import keys, redis
from fedhft.store.connection import ConnectionSettings
from fedhft.v1 import clustering_pb2, federation_pb2, jobs_pb2
from tests.unit.test_docs import DOCS, GENERATE, page
from tests.unit.test_house import ROOT


def row(name: str, first: str) -> str:
    """The cells after the first of the table row that begins with `first`."""
    rows = re.findall(rf"^\| {re.escape(first)} \| (.*) \|$", (ROOT / name).read_text(encoding="utf-8"), re.M)
    assert len(rows) == 1, f"{name} has {len(rows)} rows {first!r}"
    return str(rows[0])


def test_every_call_is_in_the_protocol_with_its_kind() -> None:
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    documented: dict[str, str] = {}
    for names, kind in re.findall(
        r"^\| ((?:`[A-Z]\w+`(?:, )?)+) \| ((?:unary|client stream|server stream)[a-z ,]*) \|", text, re.M
    ):
        calls, kinds = re.findall(r"`(\w+)`", names), kind.split(", ")
        poll = "long poll" in kinds
        kinds = [one for one in kinds if one != "long poll"] * (len(calls) if len(kinds) == 1 + poll else 1)
        documented.update(zip(calls, kinds, strict=True))
    services = [
        descriptor.services_by_name[name]
        for descriptor, name in (
            (federation_pb2.DESCRIPTOR, "Federation"),
            (jobs_pb2.DESCRIPTOR, "Jobs"),
            (clustering_pb2.DESCRIPTOR, "Clustering"),
        )
    ]
    kind_of = {(False, False): "unary", (True, False): "client stream", (False, True): "server stream"}
    expected = {
        method.name: kind_of[method.client_streaming, method.server_streaming]
        for service in services
        for method in service.methods
    }
    assert documented == expected


def test_every_status_and_phase_is_in_the_concepts() -> None:
    text = page("docs/concepts.md")
    for name in [*JobStatus, *Phase]:
        assert re.search(rf"\b{name.value}\b", text), name


def test_what_an_agent_makes_of_a_refusal_is_as_documented() -> None:
    def codes(first: str) -> set[str]:
        return set(re.findall(r"`([a-z_]+)`", row("docs/protocol.md", first)))

    declined = {code.value for code in after_refusal.DECLINE_THE_JOB}
    assert codes("declines the job") == declined
    assert codes("leaves the job") == {code.value for code in after_refusal.LEAVE_THE_JOB} - declined
    assert codes("asks for its task again") == {code.value for code in after_refusal.ASK_AGAIN}
    round_only = codes("gives the round up, goes on with the next")
    others = after_refusal.LEAVE_THE_JOB | after_refusal.LEAVE_THE_SERVER | after_refusal.ASK_AGAIN
    assert round_only
    assert not round_only & {code.value for code in others}


def test_failpoints_are_as_documented() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8").partition("## Failpoints")[2]
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.M)) == failpoints.POINTS
    assert failpoints.VARIABLE in text


def test_the_settings_of_redis_are_the_ones_that_are_checked() -> None:
    text = page("docs/operations.md")
    for name, value in redis._DURABLE.items():
        assert f"`{name} {value}`" in text
        assert f"--{name} {value}" in text


def test_the_columns_of_the_demo_are_as_documented() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("| column | meaning |")[2].partition("\n\n")[0]
    names = [name for cells in re.findall(r"^\| ([a-z, ]+) \|", text, re.M) for name in cells.split(", ")]
    assert names == [name for name in table._COLUMNS if name not in ("method", "round")]


def test_built_and_unbuilt_presets_are_as_the_readme_says() -> None:
    text = page("README.md")
    built = re.search(r"\| methods (.*?) as combinations of choices", text)
    assert built is not None
    assert set(re.findall(r"`([a-z-]+)`", built[1])) == set(PRESETS)
    unbuilt = re.search(r"Not built: .*? the presets? (.*?);", text)
    assert unbuilt is not None
    assert not set(re.findall(r"`([a-z-]+)`", unbuilt[1])) & set(PRESETS)


@pytest.mark.parametrize("name", ["docs/runbook.md", "docs/operations.md"])
def test_codes_in_documents_have_the_exit_codes_that_stand_beside_them(name: str) -> None:
    named = re.findall(r"`([a-z]+(?:_[a-z]+)+)` \((\d\d)\)", page(name))
    assert named or name != "docs/runbook.md"
    assert [(code, number) for code, number in named if OUTCOMES[ErrorCode(code)].exit_code != int(number)] == []


def test_exit_codes_of_agents_are_as_documented() -> None:
    text = page("docs/exit-codes.md")
    codes = agent._EXIT_OF_STATUS
    assert f"{codes['failed']} when it failed and {codes['cancelled']} when it was cancelled" in text
    assert codes["completed"] == 0


def source_number(module: str, name: str) -> int:
    """A constant of a module that imports torch, read from its text."""
    found = re.search(rf"^{name} = (\d+)$", (ROOT / "src/fedhft" / module).read_text(encoding="utf-8"), re.M)
    assert found is not None, f"{module} has no {name}"
    return int(found[1])


PINGS = ChannelSettings("").keepalive
SERVER = ServerSettings("")
REDIS = ConnectionSettings()
DIMENSIONS = signature.DIMENSIONS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("README.md", f"a signature of {DIMENSIONS} numbers"),
        ("docs/concepts.md", f"signature | {DIMENSIONS} numbers"),
        ("docs/concepts.md", f"after {patience.MOST_ATTEMPTS} attempts"),
        ("docs/concepts.md", f"up to {patience.LONGEST_PAUSE_S:g} s"),
        ("docs/methods.md", f"have {DIMENSIONS} values"),
        ("docs/methods.md", f"blocks of {BLOCK} consecutive clients"),
        (
            "docs/methods.md",
            f"argmax of evidence(J) - max({selection.margin(1):g}, n / {100 / selection.margin(100):g}) (J-1)",
        ),
        (
            "docs/methods.md",
            f"mean d > {prediction.FIRST_GAIN:.2g} ({prediction.FURTHER_GAIN:.2g} once J* > 1)".replace("0.", "."),
        ),
        ("docs/methods.md", f"agree by less than {prediction.LEAST_RELIABILITY:.2g} on average".replace("0.", ".")),
        ("docs/methods.md", f"(.10 for the second, {choice.FALLEN * prediction.FURTHER_GAIN:.3f}".replace(" 0.", " .")),
        ("docs/methods.md", f"an even {partition.MOST_COMPARED} are asked"),
        ("docs/methods.md", f"where its sum is larger by {100 * partition.CLEARLY:g} % of it"),
        ("docs/methods.md", f"1 / (1 + exp({selection.DOUBT:g} (J-1) - evidence(J)))"),
        ("docs/methods.md", f"{fitting._SEEDINGS} k-means++ seedings"),
        ("docs/methods.md", f"in the last {source_number('training/signatures.py', 'ANCHOR_DEPTH')} layers"),
        ("docs/methods.md", f"at most {source_number('training/signatures.py', 'ANCHOR_ROWS')} of the client's rows"),
        ("docs/methods.md", f"{source_number('training/masks.py', 'PROBE_BATCHES')} mini-batches are probed"),
        ("docs/protocol.md", f"waits at most {federation_service.MAX_WAIT_MS // 1000} s"),
        ("docs/protocol.md", f"| long poll | {federation_service.MAX_WAIT_MS // 1000} s |"),
        ("docs/protocol.md", f"at most {uploads.MAX_CHUNK_BYTES // 2**20} MiB"),
        ("docs/protocol.md", f"agents begin with {connection.CHUNK_BYTES // 2**10} KiB"),
        ("docs/protocol.md", f"go up to {connection.LARGEST_CHUNK_BYTES // 2**10} KiB"),
        ("docs/protocol.md", f"An update of up to {uploads.MAX_INLINE_BYTES // 2**10} KiB comes inside its header"),
        ("docs/protocol.md", f"in pieces of {intake.PIECE_BYTES // 2**10} KiB"),
        ("docs/concepts.md", f"asks for its task every {heartbeat.INTERVAL_S:g} s"),
        ("docs/protocol.md", f"After {transfer_places.IDLE_S:g} s without a chunk"),
        (
            "docs/protocol.md",
            f"after {transfer_places.CROWDED_IDLE_S:g} s without a chunk or "
            f"{transfer_places.CROWDED_TURN_S:g} s in all",
        ),
        ("docs/protocol.md", f"a page of its history ({paging.HISTORY_PAGE} rounds"),
        ("docs/protocol.md", f"A message holds at most {paging.HISTORY_PAGE} rounds"),
        ("docs/protocol.md", f"`history_last = {paging.HISTORY_PAGE}`"),
        ("docs/operations.md", f"the last {job_views.SHOWN_ROUNDS} rounds"),
        ("docs/operations.md", f"tell the newest {paging.HISTORY_PAGE}."),
        ("docs/operations.md", f"the last {paging.KEPT_ROUNDS:,} rounds are kept"),
        ("docs/protocol.md", f"`--takeover`, {lease.LEASE_MS // 1000} s"),
        ("docs/protocol.md", f"Deltas of the last {retention.KEPT_VERSIONS} versions"),
        ("docs/protocol.md", f"by the server after {SERVER.longest_call_s:g} s"),
        (
            "docs/protocol.md",
            f"every {PINGS.interval_s:g} s, answered within {PINGS.answer_s:g} s",
        ),
        ("docs/protocol.md", f"permits one every {SERVER.keepalive.interval_s / 2:g} s"),
        ("docs/protocol.md", f"{REDIS.answer_s:g} s in all, {REDIS.connect_s:g} s to connect"),
        ("docs/protocol.md", f"clusterer | {clusterer_client._DEADLINE_S:g} s;"),
        ("docs/protocol.md", f"pauses of up to {connection.Peer('', '').backoff.longest_s:g} s"),  # type: ignore[arg-type]
        ("docs/protocol.md", f"again after {offers.Offers().backoff.first_s:g} s"),
        ("docs/operations.md", f"Deltas of the last {retention.KEPT_VERSIONS} versions"),
        ("docs/operations.md", f"snapshots of the last {retention.KEPT_SNAPSHOTS}"),
        ("docs/operations.md", f"within `--takeover` ({lease.LEASE_MS // 1000} s)"),
        ("docs/operations.md", f"{pages.MAX_CONNECTIONS} connections at once"),
    ],
)
def test_numbers_in_documents_are_the_code_s(name: str, sentence: str) -> None:
    assert sentence in page(name)


def test_times_that_are_written_as_words_are_the_code_s() -> None:
    assert keys.TRANSFER_TTL_S == 6 * 3600
    assert "after six hours" in page("docs/protocol.md")
    assert tidying._ORPHAN_AGE_S == 3600
    assert "are deleted after an hour" in page("docs/operations.md")
    assert offers.Offers().backoff.longest_s == 1800
    assert "up to half an hour" in page("docs/protocol.md")
    assert agent._KEEP_UNSEEN_S == 7 * 86400
    assert "after seven days" in page("docs/operations.md")
    assert JobsClient.__init__.__defaults__ == (None, 10.0, None)
    assert "The command line gives up after 10 s" in page("docs/protocol.md")


def test_ports_in_the_walkthrough_are_the_defaults() -> None:
    assert ClustererSettings().listen == "127.0.0.1:50052"
    assert "--clusterer 127.0.0.1:50052" in page("docs/operations.md")
    assert "curl -s http://127.0.0.1:9101/readyz" in page("docs/operations.md")
    assert "`9101`" in GENERATE.options_aggregator()
    assert AggregatorSettings().admin_listen == DEFAULT_SERVER == "127.0.0.1:50053"
    assert f"--admin-server {DEFAULT_SERVER}" in page("docs/operations.md")
