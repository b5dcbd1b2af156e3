"""The client of the Jobs service against a real one: long histories in pages, watches that outlast silence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops

from fedhft.coordination.describe import HISTORY_PAGE
from fedhft.coordination.history import RoundHistory
from fedhft.coordination.job_cache import JobCache
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.jobs.client import JobsClient
from fedhft.records import JobStatus, Phase, RoundRecord, VersionRecord
from fedhft.rpc.server import RunningServer, ServerSettings, start_server
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import jobs_pb2, jobs_pb2_grpc
from tests.light import light_job

JOB = JobId("long")


class Server:
    """The Jobs service on a loop of its own thread, over an in-memory store that outlives restarts."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running: RunningServer | None = None
        self.address = "127.0.0.1:0"

    def call(self, work: Callable[[], object]) -> object:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)  # type: ignore[arg-type,call-overload]

    def start(self) -> None:
        async def start() -> None:
            loops = JobLoops(self.store, JobCache(self.store), None, lambda point: None)
            jobs = Jobs(self.store, loops)
            self._running = await start_server(
                ServerSettings(self.address),
                lambda server: jobs_pb2_grpc.add_JobsServicer_to_server(jobs, server),
                ["fedhft.v1.Jobs"],
            )
            self.address = self._running.address

        self.call(start)

    def stop(self) -> None:
        async def stop() -> None:
            if self._running is not None:
                await self._running.stop(0)

        self.call(stop)

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def publish(self, first: int, last: int, evaluation: bool = False) -> None:
        """Rounds first..last, with nothing in them but their number."""

        async def publish() -> None:
            fence = await self.store.acquire(JOB, "test", 60_000)
            assert fence is not None
            for number in range(first, last + 1):
                record = RoundRecord(
                    number=number, phase=Phase.COLLECTING, evaluation=evaluation, base_version=number - 1,
                    membership_version=0, clusters=1, opened_ms=0, deadline_ms=0, target=1, quorum=1, participants={},
                )  # fmt: skip
                await self.store.open_round(JOB, record, fence)
                await self.store.begin_fold(JOB, number, fence)
                summary = jobs_pb2.RoundSummary(round=number, seconds=number / 8)
                results = (jobs_pb2.ClientResult(client="a"),) if evaluation else ()
                entry = RoundHistory(summary, results, evaluation)
                version = VersionRecord(version=number, round=number, clusters=1)
                await self.store.publish(JOB, number, version, entry.to_json(), fence)

        self.call(publish)

    def set_status(self, status: JobStatus) -> None:
        async def change() -> None:
            await self.store.set_status(JOB, status, "", [one for one in JobStatus if not one.over])

        self.call(change)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()

    async def create() -> None:
        await running.store.create_job(JOB, light_job(JOB).canonical())

    running.call(create)
    running.set_status(JobStatus.RUNNING)
    running.start()
    yield running
    running.end()


def rounds(job: jobs_pb2.Job) -> list[int]:
    return [entry.round for entry in job.history]


def test_a_history_of_several_pages_is_got_whole(server: Server) -> None:
    many = 2 * HISTORY_PAGE + 7
    server.publish(1, many)
    with JobsClient(server.address) as client:
        job = client.get(JOB)
        assert rounds(job) == list(range(1, many + 1))
        assert job.rounds_done == many
        assert [entry.rounds_done for entry in client.list()] == [many]
        assert rounds(client.list()[0]) == []


def test_one_message_carries_a_page_and_says_where_it_goes_on(server: Server) -> None:
    server.publish(1, HISTORY_PAGE + 1)
    with JobsClient(server.address) as client:
        first = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB), timeout=5)
        assert rounds(first) == list(range(1, HISTORY_PAGE + 1))
        rest = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, history_after=HISTORY_PAGE), timeout=5)
        assert rounds(rest) == [HISTORY_PAGE + 1]
        none = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, history_after=5000), timeout=5)
        assert rounds(none) == []


def test_a_final_evaluation_is_no_round_and_brings_its_results(server: Server) -> None:
    server.publish(1, 2)
    server.set_status(JobStatus.EVALUATING)
    server.publish(3, 3, evaluation=True)
    with JobsClient(server.address) as client:
        job = client.get(JOB)
        assert (job.rounds_done, rounds(job), job.final.round) == (2, [1, 2], 3)
        assert [result.client for result in job.results] == ["a"]


def test_a_watcher_sees_the_whole_history_each_time_and_gets_each_round_once(server: Server) -> None:
    many = HISTORY_PAGE + 3
    server.publish(1, many)
    with JobsClient(server.address) as client:
        watch = client.watch(JOB)
        assert rounds(next(watch)) == list(range(1, many + 1))
        server.publish(many + 1, many + 1)
        assert rounds(next(watch))[-2:] == [many, many + 1]
        stream = client._open_watch(JOB, many)
        assert rounds(next(stream)) == [many + 1]
        stream.cancel()
        server.set_status(JobStatus.COMPLETED)
        *_, last = watch
        assert (last.status, len(last.history)) == ("completed", many + 1)


def test_a_watch_outlasts_a_restart_after_a_long_silence_and_repeats_no_round(server: Server) -> None:
    server.publish(1, 2)
    with JobsClient(server.address, give_up_after_s=4.0) as client:
        asked: list[int] = []
        real = client._open_watch
        client._open_watch = lambda job, after: asked.append(after) or real(job, after)  # type: ignore[method-assign,func-returns-value]
        watch = client.watch(JOB)
        assert rounds(next(watch)) == [1, 2]
        time.sleep(4.5)  # a round longer than the patience with a server that is away
        later: Future[jobs_pb2.Job] = Future()

        def follow() -> None:
            try:
                later.set_result(next(watch))
            except FedhftError as error:
                later.set_exception(error)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        server.stop()
        time.sleep(0.5)
        server.start()
        server.publish(3, 3)
        told = later.result(10)
        assert (told.status, rounds(told)[:2]) == ("running", [1, 2])
        thread.join(5)
        assert (asked[0], set(asked[1:])) == (0, {2})  # the server is asked for what is new


def test_a_server_that_tells_everything_each_time_is_understood(server: Server) -> None:
    """As servers did before histories came in pages."""
    server.publish(1, 3)
    with JobsClient(server.address) as client:
        whole = client._page(JOB, 0)
        client._page = lambda job, history_after: whole  # type: ignore[method-assign]
        assert rounds(client.get(JOB)) == [1, 2, 3]


def test_a_watch_gives_up_on_a_server_that_stays_away(server: Server) -> None:
    with JobsClient(server.address, give_up_after_s=0.5) as client:
        watch = client.watch(JOB)
        next(watch)
        server.stop()
        started = time.monotonic()
        with pytest.raises(FedhftError) as caught:
            for _ in watch:
                pass
        assert caught.value.code is ErrorCode.SERVER_UNAVAILABLE
        assert time.monotonic() - started < 15
