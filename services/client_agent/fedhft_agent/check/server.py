"""Checks of the way to the server: its addresses, both certificates, what it says, its clock, the jobs on offer.

Nothing is enrolled: `Preview` says what an Enroll would, and an agent that runs under the same name does not notice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedhft import PROTOCOL_VERSION
from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import SCHEME, Role, parse_identity
from fedhft.job import load_canonical, read_job
from fedhft.rpc.address import is_loopback, parse_address
from fedhft.rpc.certificate_shown import clock, own_certificate
from fedhft.rpc.channel import ChannelSettings, open_channel
from fedhft.rpc.diagnosis import diagnose, no_answer, reason_of, ways
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import federation_pb2, federation_pb2_grpc
from fedhft_agent.check.findings import Finding, failed, ok, warning
from fedhft_agent.check.scene import KnownJob, Scene
from fedhft_agent.owner_rules import NO_RULES, check_offer

DIAGNOSIS_S = 30.0
"""How long to look for what is wrong with the connection."""
CALL_S = 15.0
"""How long the server may take to answer a call."""
MOST_JOBS = 8
"""Jobs on offer that data and model are checked against."""
SOON_DAYS = 14.0
"""A certificate that ends earlier is warned of."""
MOST_SKEW_S = 30.0
"""Difference of the clocks that is warned of."""
_SERVICE = "fedhft.v1.Federation"


def check_address(scene: Scene) -> Iterator[Finding]:
    """Whether every address of the server's name accepts connections, or the proxy that is in between lets us through.

    Raises FedhftError(SERVER_UNAVAILABLE, PROXY_REFUSED).
    """
    answers, faults = [], []
    for way in ways(scene.settings.server):
        begun = time.monotonic()
        try:
            with way.dial():
                answers.append(f"{way.place} answers in {(time.monotonic() - begun) * 1000:.0f} ms")
        except OSError as error:
            faults.append(f"{way.place}: {reason_of(error)}")
    if not answers:
        raise no_answer(faults)
    scene.reachable = True
    if faults:
        yield warning("address", ", ".join([*answers, *faults]), "see that the server listens on all of its addresses")
    else:
        yield ok("address", ", ".join(answers))


def check_certificate(scene: Scene) -> Iterator[Finding]:
    """Our own files: readable, belonging together, in date, and for this client."""
    settings = scene.settings
    tls = settings.tls
    if tls is None:
        if is_loopback(parse_address(settings.server, "--server")[0]):
            yield ok("certificate", "no TLS, to a server on this machine")
        else:
            yield warning(
                "certificate",
                "no TLS: updates travel in plain text, and the server cannot tell this agent from others",
                "give --tls-authority, --tls-certificate and --tls-key",
            )
        return
    tls.read()
    if tls.certificate is None:
        scene.files_sound = True
        yield ok("certificate", "none; a server that asks for one will refuse this agent")
        return
    certificate = own_certificate(tls)
    if certificate is None:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f"TLS file {tls.certificate}: is not a certificate that a client can show; give the agent's own",
        )
    now = time.time()
    uris = [uri for uri in certificate.uris if SCHEME in uri]
    who = ", ".join(uris) or "nobody"
    renewal = f"`fedhft certs renew agent/{settings.client}`, or whoever issued it"
    if certificate.not_after < now:
        raise FedhftError(
            ErrorCode.CLIENT_CERTIFICATE_REFUSED,
            f"--tls-certificate ({tls.certificate}), of {who}, has expired since {clock(certificate.not_after)}; "
            f"renew it: {renewal}",
        )
    if certificate.not_before > now:
        raise FedhftError(
            ErrorCode.CLIENT_CERTIFICATE_REFUSED,
            f"--tls-certificate ({tls.certificate}), of {who}, is not valid until {clock(certificate.not_before)}, by "
            f"this machine's clock ({clock(now)}); set the clock",
        )
    scene.files_sound = True
    _check_identity(uris, settings.client)
    left = (certificate.not_after - now) / 86400
    if left < SOON_DAYS:
        yield warning("certificate", f"{who} expires in {_days(left)}", f"renew it: {renewal}")
    else:
        yield ok("certificate", f"{who} expires in {_days(left)}")


def _check_identity(uris: list[str], client: str) -> None:
    """Raises FedhftError(IDENTITY_MISMATCH) unless a certificate is that of this client's agent."""
    identity = parse_identity(uris[0]) if len(uris) == 1 else None
    if identity is None or identity.role is not Role.AGENT or identity.name != client:
        raise FedhftError.field(
            ErrorCode.IDENTITY_MISMATCH, "--client", client, f"the certificate is for {', '.join(uris) or 'nobody'}",
            f"give the certificate of agent/{client}"
            + (f", or run as --client {identity.name}" if identity and identity.role is Role.AGENT else ""),
        )  # fmt: skip


def check_tls(scene: Scene) -> Iterator[Finding]:
    """Whether both sides agree about TLS and, where they use it, take each other's certificates.

    Raises FedhftError, in the same words as the agent and with the same code.
    """
    tls, server = scene.settings.tls, scene.settings.server
    if not scene.reachable:
        if tls is not None:
            yield warning("tls", "not checked: the server cannot be reached")
        return
    if tls is not None and not scene.files_sound:
        scene.reachable = False
        yield warning("tls", "not checked: this agent's files cannot be used")
        return
    cause = diagnose(server, tls, DIAGNOSIS_S)
    if cause is not None:
        scene.reachable = False
        raise cause
    if tls is not None:
        host = parse_address(server, "--server")[0].strip("[]")
        signer = tls.authority or "this system"
        yield ok("tls", f"the server's certificate is for {host} and signed by the authority of {signer}")


def check_server(scene: Scene) -> Iterator[Finding]:
    """What the server says to this client, how its clock compares, and which jobs there are."""
    settings = scene.settings
    if settings.job_file is not None:
        yield from _job_of_file(scene)
    if not scene.reachable:
        yield warning("server", "not checked: it cannot be reached")
        return
    channel = open_channel(ChannelSettings(settings.server, tls=settings.tls, own_connection=True))
    try:
        stub = federation_pb2_grpc.FederationStub(channel)
        before = time.time()
        try:
            answer = _preview(stub, scene)
        except FedhftError as error:
            yield _earlier_release(channel, error)
            return
        after = time.time()
        yield ok("server", f"{settings.server} knows protocol {PROTOCOL_VERSION} and would take {settings.client}")
        yield _clock(answer.now_ms / 1000, before, after)
        if settings.job_file is None:
            yield from _jobs(stub, scene, [offer.job for offer in answer.jobs])
    finally:
        channel.close()


def check_rules(scene: Scene) -> Iterator[Finding]:
    """The owner's rules, and the jobs that break them."""
    rules = scene.settings.rules
    unset = asdict(NO_RULES)
    given = [name for name, value in asdict(rules).items() if value != unset[name]]
    broken = []
    for job in scene.jobs:
        known = rules if job.submitted_by is not None else replace(rules, allow_operators=())
        try:
            check_offer(known, job.spec, job.submitted_by or "")
        except FedhftError as error:
            finding = failed("rules", error)
            broken.append(finding if _only_job(scene) else finding.softened)
    shown = f"{len(given)} set ({', '.join(given)})" if given else "none: every job on offer is served"
    yield from broken or [ok("rules", shown)]


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"


def _preview(stub: Any, scene: Scene, job: str = "") -> federation_pb2.PreviewResponse:
    request = federation_pb2.PreviewRequest(client=scene.settings.client, protocol_version=PROTOCOL_VERSION, job=job)
    try:
        answer: federation_pb2.PreviewResponse = stub.Preview(request, timeout=CALL_S)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error
    return answer


def _earlier_release(channel: grpc.Channel, error: FedhftError) -> Finding:
    """What to make of a refusal: a server of an earlier release serves agents, but does not know Preview."""
    if isinstance(error.__cause__, grpc.Call) and error.__cause__.code() is grpc.StatusCode.UNIMPLEMENTED:
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        try:
            health = health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_S)
        except grpc.RpcError:
            return failed("server", error)
        if health.status == health_pb2.HealthCheckResponse.SERVING:
            return warning(
                "server",
                "it serves agents, but is of an earlier release: its clock and its jobs are not checked",
                "give --job-file to check data and model against a job",
            )
    return failed("server", error)


def _clock(server_s: float, before: float, after: float) -> Finding:
    """Compare with the middle of the call: it is known no better than half of what the call took."""
    ahead = (before + after) / 2 - server_s
    known = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the server's, give or take "
    known += f"{(after - before) / 2:.1f} s"
    if abs(ahead) - (after - before) / 2 > MOST_SKEW_S:
        return warning(
            "clock",
            f"this machine's clock is {known}",
            "set it: certificates are valid by the clock of who checks them",
        )
    return ok("clock", known)


def _job_of_file(scene: Scene) -> Iterator[Finding]:
    path = scene.settings.job_file
    if path is not None:
        try:
            spec = read_job(path)
        except FedhftError as error:
            yield failed("jobs", error)
            return
        scene.jobs.append(KnownJob(spec, None))
        yield ok("jobs", f"{spec.name}, from {path}")


def _jobs(stub: Any, scene: Scene, offered: list[str]) -> Iterator[Finding]:
    wanted = scene.settings.job
    names = [str(wanted)] if wanted is not None else offered[:MOST_JOBS]
    for name in names:
        try:
            offer = _preview(stub, scene, name).offer
            scene.jobs.append(KnownJob(load_canonical(offer.spec_json), offer.submitted_by))
        except FedhftError as error:
            if wanted is None and error.code in (ErrorCode.UNKNOWN_JOB, ErrorCode.JOB_NOT_RUNNING):
                continue  # it ended since the server listed it
            if error.code is ErrorCode.UNKNOWN_JOB:
                yield warning("jobs", f"there is no job {name} yet; the agent will wait for it", "check --job")
            else:
                finding = failed("jobs", error)
                yield finding if _only_job(scene) else finding.softened
    if scene.jobs:
        more = len(offered) - len(names)
        also = f", and {more} more that are not looked at" if wanted is None and more > 0 else ""
        yield ok("jobs", "on offer: " + ", ".join(job.spec.name for job in scene.jobs) + also)
    elif wanted is None:
        yield ok("jobs", "none on offer that can be served; the agent will wait for one")


def _only_job(scene: Scene) -> bool:
    """Whether the agent would end with the refusal of this job, rather than look for another."""
    return scene.settings.job is not None or scene.settings.job_file is not None or scene.settings.once
