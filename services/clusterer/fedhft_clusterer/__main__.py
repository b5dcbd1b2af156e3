"""`python -m fedhft_clusterer`: serves memberships to the aggregator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc.aio

from fedhft.clustering.gaussian_mixture import Fitted
from fedhft.coordination.memberships import Fit
from fedhft.errors import FedhftError
from fedhft.process.lifecycle import ServiceOptions, announce, service_parser, wait_for_signal
from fedhft.process.pages import serve_pages
from fedhft.process.readiness import ReadinessWatch
from fedhft.rpc.server import ServerSettings, parse_address, start_server
from fedhft.rpc.sockets import SocketMeter
from fedhft.store.open import open_store
from fedhft.telemetry import logs, metrics
from fedhft.v1 import clustering_pb2_grpc
from fedhft_clusterer.clustering import Clustering

log = logging.getLogger("fedhft_clusterer")

SERVICES = ("fedhft.v1.Clustering",)
FITS_AT_ONCE = 2
"""Jobs fitted at the same time; further ones wait."""


def parse(arguments: list[str]) -> ServiceOptions:
    """Options from the command line and FEDHFT_* variables."""
    parser = service_parser(
        "fedhft_clusterer", "Serves memberships to the aggregator.", "127.0.0.1:50052", metrics_port=9102
    )
    return ServiceOptions.of(parser.parse_args(arguments))


async def serve(options: ServiceOptions) -> None:
    """Run until SIGTERM or SIGINT. Raises FedhftError for options that cannot work."""
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(options.redis, "redis")
        stack.push_async_callback(store.close)
        threads = ThreadPoolExecutor(FITS_AT_ONCE, thread_name_prefix="fit")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)

        async def run(fit: Fit) -> Fitted:
            asked = time.perf_counter()

            def started() -> Fitted:
                metrics.QUEUE_WAIT_SECONDS.observe(time.perf_counter() - asked)
                return fit()

            return await asyncio.get_running_loop().run_in_executor(threads, started)

        def register(server: grpc.aio.Server) -> None:
            clustering_pb2_grpc.add_ClusteringServicer_to_server(Clustering(store, run), server)

        server = await start_server(ServerSettings(options.listen, tls=options.tls), register, SERVICES)
        stack.push_async_callback(server.stop, options.grace_s)
        _, port = parse_address(server.address, "listen")
        metrics.SOCKET_BYTES.measure(SocketMeter(local_ports=[port]).sample)
        watch = ReadinessWatch(store.ping, server.set_ready)
        await watch.start()
        stack.push_async_callback(watch.stop)
        pages = serve_pages(options.metrics_port, watch.ready, options.metrics_host)
        stack.callback(pages.stop)
        announce(grpc=server.address, metrics=pages.address)
        signal = await wait_for_signal()
        log.info("stopping", extra={"signal": signal.name})


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        options = parse(sys.argv[1:])
        logs.configure(options.log_format, options.log_level)
        asyncio.run(serve(options))
    except FedhftError as error:
        print(f"fedhft_clusterer: {error.message}", file=sys.stderr)
        return error.outcome.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
