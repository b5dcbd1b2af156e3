"""The client of the Jobs service against a real one: long histories in pages, watches that outlast silence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future

import pytest
from fedhft_aggregator.jobs_service import Jobs
from fedhft_aggregator.loops import JobLoops

from fedhft.coordination.history import RoundHistory
from fedhft.coordination.job_cache import JobCache
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.jobs.client import JobsClient
from fedhft.records import JobStatus, Phase, RoundRecord, VersionRecord
from fedhft.rounds.paging import HISTORY_PAGE
from fedhft.rpc.caller import Context
from fedhft.rpc.server import RunningServer, ServerSettings, start_server
from fedhft.store.in_memory import InMemoryStore
from fedhft.v1 import jobs_pb2, jobs_pb2_grpc
from tests.light import light_job

JOB = JobId("long")


class EarlierJobs(Jobs):
    """As servers were that send every history from its beginning."""

    async def Get(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:
        known = jobs_pb2.GetJobRequest(job=request.job, history_after=request.history_after)
        told = await super().Get(known, context)
        told.ClearField("history_from")
        return told

    async def Watch(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.Job]:
        known = jobs_pb2.WatchJobRequest(job=request.job, history_after=request.history_after)
        async for told in super().Watch(known, context):
            told.ClearField("history_from")
            yield told


class Server:
    """The Jobs service on a loop of its own thread, over an in-memory store that outlives restarts."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.service = Jobs
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
            jobs = self.service(self.store, loops)
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

    def publish(self, first: int, last: int, evaluation: bool = False, kept: int | None = None) -> None:
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
                await self.store.publish(JOB, number, version, entry.to_json(), fence, None, kept)

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
        assert (job.rounds_done, job.history_from) == (many, 1)
        assert [entry.rounds_done for entry in client.list()] == [many]
        assert rounds(client.list()[0]) == []


@pytest.mark.parametrize("last", [1, 20, HISTORY_PAGE, HISTORY_PAGE + 44, 5000])
def test_the_newest_rounds_come_in_as_few_calls_as_they_need(server: Server, last: int) -> None:
    many = 2 * HISTORY_PAGE + 7
    server.publish(1, many)
    with JobsClient(server.address) as client:
        calls: list[int] = []
        real = client._page
        client._page = lambda *given, **named: calls.append(1) or real(*given, **named)  # type: ignore[method-assign,func-returns-value]
        wanted = min(last, many)
        assert rounds(client.get(JOB, last)) == list(range(many - wanted + 1, many + 1))
        assert len(calls) == -(-wanted // HISTORY_PAGE)


def test_one_message_carries_a_page_of_what_was_asked_for(server: Server) -> None:
    many = 2 * HISTORY_PAGE
    server.publish(1, many)
    with JobsClient(server.address) as client:

        def page(**asked: int) -> list[int]:
            return rounds(client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, **asked), timeout=5))

        assert page(history_last=5000) == list(range(HISTORY_PAGE + 1, many + 1))
        assert page(history_last=3, history_before=100) == [97, 98, 99]
        older = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, history_last=3, history_before=100), timeout=5)
        assert (older.job, older.status, older.rounds_done, older.history_from) == (JOB, "running", many, 1)
        assert older.spec_json == ""  # nor clients, nor memberships: the caller has them
        assert page(history_last=3, history_before=100, history_after=98) == [99]
        assert page(history_after=many - 1) == [many]
        assert page(history_after=5000) == page(history_after=5000, history_last=9) == []
        assert page(history_before=1, history_last=9) == []


def test_a_client_of_an_earlier_release_still_gets_every_round_once(server: Server) -> None:
    many = 2 * HISTORY_PAGE + 7
    server.publish(1, many)
    with JobsClient(server.address) as client:
        got: list[int] = []
        while len(got) < many:
            page = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, history_after=len(got)), timeout=5)
            assert page.history
            got += rounds(page)
        assert got == list(range(1, many + 1))
        watched: list[int] = []
        for told in client._stub.Watch(jobs_pb2.WatchJobRequest(job=JOB), timeout=5):
            watched += rounds(told)
            if len(watched) == many:
                break
        assert watched == got


def test_whoever_asks_for_rounds_that_are_no_longer_kept_is_told_so(server: Server) -> None:
    many = 2 * HISTORY_PAGE
    server.publish(1, many, kept=HISTORY_PAGE + 10)
    first = HISTORY_PAGE - 9
    with JobsClient(server.address) as client:
        whole = client.get(JOB)
        assert (whole.rounds_done, whole.history_from) == (many, first)
        assert rounds(whole) == list(range(first, many + 1))
        for asked, expected in (
            ({"history_after": 3}, list(range(first, first + HISTORY_PAGE))),
            ({"history_before": first + 2, "history_last": 20}, [first, first + 1]),
            ({"history_before": 50, "history_last": 20}, []),
        ):
            told = client._stub.Get(jobs_pb2.GetJobRequest(job=JOB, **asked), timeout=5)
            assert (rounds(told), told.history_from) == (expected, first)
        behind = client._open_watch(JOB, 3)
        assert rounds(next(behind)) + rounds(next(behind)) == list(range(first, many + 1))
        behind.cancel()


def test_rounds_dropped_while_a_history_is_fetched_are_no_trouble(server: Server) -> None:
    many = 3 * HISTORY_PAGE
    server.publish(1, many)
    with JobsClient(server.address) as client:
        real = client._page

        def page(*given: object, **named: int) -> jobs_pb2.Job:
            told = real(*given, **named)  # type: ignore[arg-type]
            if "before" not in named:
                server.publish(many + 1, many + 1, kept=HISTORY_PAGE + 11)
            return told

        client._page = page  # type: ignore[method-assign]
        job = client.get(JOB)
        assert rounds(job) == list(range(2 * HISTORY_PAGE - 9, many + 1))
        assert job.rounds_done == many


def test_a_final_evaluation_is_no_round_and_brings_its_results(server: Server) -> None:
    server.publish(1, 2)
    server.set_status(JobStatus.EVALUATING)
    server.publish(3, 3, evaluation=True)
    with JobsClient(server.address) as client:
        job = client.get(JOB)
        assert (job.rounds_done, rounds(job), job.final.round) == (2, [1, 2], 3)
        assert [result.client for result in job.results] == ["a"]


def test_a_watcher_of_a_long_job_sees_the_present_in_its_first_message(server: Server) -> None:
    many = 4 * HISTORY_PAGE
    server.publish(1, many)
    with JobsClient(server.address) as client:
        stream = client._open_watch(JOB, 0, HISTORY_PAGE)
        first = next(stream)
        assert (first.rounds_done, rounds(first)) == (many, list(range(3 * HISTORY_PAGE + 1, many + 1)))
        server.publish(many + 1, many + 1)
        server.set_status(JobStatus.COMPLETED)  # ends the stream
        assert [number for told in stream for number in rounds(told)] == [many + 1]


def test_a_watch_that_began_with_few_rounds_leaves_none_out_when_several_come_at_once(server: Server) -> None:
    server.publish(1, 9)
    with JobsClient(server.address) as client:
        stream = client._open_watch(JOB, 0, 1)
        got = rounds(next(stream))
        server.publish(10, 14)
        while got[-1] < 14:
            got += rounds(next(stream))
        assert got == [9, 10, 11, 12, 13, 14]
        stream.cancel()


def test_a_watcher_gets_each_round_once_and_sees_those_it_got_each_time(server: Server) -> None:
    many = HISTORY_PAGE + 3
    server.publish(1, many)
    with JobsClient(server.address) as client:
        watch, whole = client.watch(JOB, 5), client.watch(JOB, None)
        assert rounds(next(watch)) == list(range(many - 4, many + 1))
        assert rounds(next(whole)) == list(range(1, many + 1))
        server.publish(many + 1, many + 1)
        assert rounds(next(watch))[-2:] == [many, many + 1]
        stream = client._open_watch(JOB, many)
        assert rounds(next(stream)) == [many + 1]
        stream.cancel()
        server.set_status(JobStatus.COMPLETED)
        for watching, first in ((watch, many - 4), (whole, 1)):
            *_, last = watching
            assert (last.status, rounds(last)) == ("completed", list(range(first, many + 2)))


def test_a_watch_that_was_away_for_long_gets_what_it_missed_once_and_in_order(server: Server) -> None:
    """Several pages, and the job ended meanwhile."""
    server.publish(1, 10)
    many = 2 * HISTORY_PAGE + 30
    with JobsClient(server.address, give_up_after_s=20.0) as client:
        watch = client.watch(JOB, 4)
        assert rounds(next(watch)) == [7, 8, 9, 10]
        server.stop()
        server.publish(11, many)
        server.set_status(JobStatus.EVALUATING)
        server.publish(many + 1, many + 1, evaluation=True)
        server.set_status(JobStatus.COMPLETED)
        server.start()
        *_, last = watch
        assert (last.status, last.final.round, rounds(last)) == ("completed", many + 1, list(range(7, many + 1)))


def test_a_watch_outlasts_a_restart_after_a_long_silence_and_repeats_no_round(server: Server) -> None:
    server.publish(1, 2)
    with JobsClient(server.address, give_up_after_s=4.0) as client:
        asked: list[tuple[int, int]] = []
        real = client._open_watch
        client._open_watch = lambda job, after, last: asked.append((after, last)) or real(job, after, last)  # type: ignore[method-assign,func-returns-value]
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
        assert (asked[0], set(asked[1:])) == ((0, HISTORY_PAGE), {(2, 0)})  # the server is asked for what is new


def test_a_server_that_does_not_have_what_it_says_is_not_asked_for_ever(server: Server) -> None:
    server.publish(1, HISTORY_PAGE + 1)
    with JobsClient(server.address) as client:
        real = client._page

        def page(*given: object, **named: int) -> jobs_pb2.Job:
            told = real(*given, **named)  # type: ignore[arg-type]
            if "before" in named:
                del told.history[:]
            return told

        client._page = page  # type: ignore[method-assign]
        assert rounds(client.get(JOB)) == list(range(2, HISTORY_PAGE + 2))


def test_a_server_of_an_earlier_release_loses_no_round_either(server: Server) -> None:
    many = 2 * HISTORY_PAGE + 7
    server.publish(1, many)
    server.stop()
    server.service = EarlierJobs
    server.start()
    with JobsClient(server.address) as client:
        assert rounds(client.get(JOB)) == list(range(1, many + 1))
        assert rounds(client.get(JOB, 20)) == list(range(many - 19, many + 1))
        assert rounds(client.pause(JOB, "later"))[-1] == many
        watch = client.watch(JOB, 20)
        assert rounds(next(watch)) == list(range(1, many + 1))
        watch.close()


def test_a_call_that_reaches_a_server_of_an_earlier_release_half_way_loses_no_round(server: Server) -> None:
    """As while aggregators are being upgraded one by one behind one address."""
    many = 3 * HISTORY_PAGE
    server.publish(1, many)
    with JobsClient(server.address) as client:
        real = client._page

        def page(*given: object, **named: int) -> jobs_pb2.Job:
            if "before" not in named:
                return real(*given, **named)  # type: ignore[arg-type]
            told = real(JOB)
            told.ClearField("history_from")
            return told

        client._page = page  # type: ignore[method-assign]
        assert rounds(client.get(JOB)) == list(range(1, many + 1))


def test_a_server_that_tells_everything_each_time_is_understood(server: Server) -> None:
    """As servers did before histories came in pages."""
    server.publish(1, 3)
    with JobsClient(server.address) as client:
        whole = client._page(JOB, last=HISTORY_PAGE)
        whole.ClearField("history_from")
        client._page = lambda job, **asked: whole  # type: ignore[method-assign]
        assert rounds(client.get(JOB)) == [1, 2, 3]


@pytest.mark.parametrize("act", ["submit", "pause", "resume", "cancel"])
def test_what_changes_a_job_answers_with_its_newest_rounds(server: Server, act: str) -> None:
    many = HISTORY_PAGE + 9
    server.publish(1, many)
    with JobsClient(server.address) as client:
        match act:
            case "submit":
                told = client.submit(light_job(JOB))
            case "resume":
                client.pause(JOB, "a while")
                told = client.resume(JOB)
            case _:
                told = getattr(client, act)(JOB, "because")
        assert rounds(told) == list(range(10, many + 1))


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
