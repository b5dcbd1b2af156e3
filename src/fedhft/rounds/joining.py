"""Whether a client may join a job, and what is recorded about it: its schema, its data figures, its signature.

Pure, and used both for agents over sockets and for simulated clients. The store decides which schema is the job's
(the first one presented); this module checks whether a client's application fits the job and that schema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fedhft.adapter import AdapterSchema
from fedhft.clustering.signature import check_halves, check_signature
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.planning.estimates import Capacity, Durations, estimated
from fedhft.planning.fold_memory import check_fold_fits
from fedhft.planning.tiers import MOST_MEMORY_BYTES, check_too_large, tier_of
from fedhft.records import ClientRecord, PlanTooLarge

MAX_REASON = 500
"""Most characters of the reason of a decline."""
_LONGEST_VERSION = 64
_LONGEST_TOKEN = 128
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Application:
    """What a client presents when it joins.

    memory_bytes: what its agent may use, 0 when not stated. tier: the one it asks for; empty leaves it to the job.
    samples: training rows. signature: unit-norm anchor signature; empty where the method has none. halves: those of two
    halves of its rows, one after the other; empty from an agent of an earlier release. too_large: plans that do not fit
    its memory.
    """

    client: str
    memory_bytes: int
    tier: str
    schema: AdapterSchema
    samples: int
    data_digest: str
    signature: tuple[float, ...]
    has_shared_validation: bool
    trial: Durations | None = None
    """What a trial on its device measured."""
    keeps_frozen_layers: bool = False
    deepest: int = 0
    """The most layers that its device has memory to train; 0 means not stated."""
    most_steps: int = 0
    """The most optimiser steps of a round that its owner allows; 0 means not stated."""
    too_large: tuple[PlanTooLarge, ...] = ()
    halves: tuple[float, ...] = ()


def check_enrolment(memory_bytes: int, agent_version: str, lease_token: str) -> None:
    """Check what an agent says of itself: it is kept, logged and shown. Raises INVALID_ARGUMENT."""
    if memory_bytes > MOST_MEMORY_BYTES:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "memory_bytes", memory_bytes, f"is more than {MOST_MEMORY_BYTES}",
            "state what the agent may use, or 0",
        )  # fmt: skip
    for field, text, most in (
        ("agent_version", agent_version, _LONGEST_VERSION), ("lease_token", lease_token, _LONGEST_TOKEN),
    ):  # fmt: skip
        if len(text) > most or not text.isprintable():
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, field, text, f"is not at most {most} printable characters",
                "send what the agent was built with or the server gave it",
            )  # fmt: skip


def check_application(spec: JobSpec, application: Application) -> None:
    """Check an application against the job alone.

    Raises FedhftError: NOT_AUTHORISED, INVALID_DATA, SCHEMA_MISMATCH, FOLD_TOO_LARGE, INVALID_ARGUMENT, NON_FINITE,
    PLAN_TOO_LARGE.
    """
    check_authorised(spec, application.client)
    if application.samples < 1:
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "samples", application.samples, "a client needs training rows", "give it data"
        )
    if application.samples > spec.limits.samples:
        raise FedhftError.field(
            ErrorCode.INVALID_DATA, "samples", application.samples, f"limits.samples is {spec.limits.samples}",
            "state the rows there are, or submit the job with a larger limit",
        )  # fmt: skip
    if application.data_digest and not _DIGEST.fullmatch(application.data_digest):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "data_digest", application.data_digest, "is not a SHA-256 in hex",
            "send 64 characters of 0-9 and a-f, or none",
        )  # fmt: skip
    check_schema(spec, application.schema)
    check_fold_fits(spec, application.schema)
    check_anchor_signature(spec, application.signature, application.halves)
    check_too_large(spec, application.too_large)
    tier_of(spec, application.client, application.memory_bytes, application.tier, application.too_large)


def check_authorised(spec: JobSpec, client: str) -> None:
    """Check that the job admits a client, before anything the client sent is parsed.

    Raises NOT_AUTHORISED.
    """
    if spec.clients and client not in spec.clients:
        raise FedhftError(
            ErrorCode.NOT_AUTHORISED, f"client {client} is not among the job's clients; ask the job's owner to add it"
        )


def decline_reason(text: str) -> str:
    """What a client says that will not serve a job, checked: people will read it on their terminals.

    Raises INVALID_ARGUMENT.
    """
    if not text or len(text) > MAX_REASON or not text.isprintable():
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "reason", text, "is not a line of text",
            f"write 1 to {MAX_REASON} printable characters",
        )  # fmt: skip
    return text


def pinned_schema(spec: JobSpec, text: str) -> str:
    """The schema with which a job is submitted, in canonical form; empty for none.

    Raises FedhftError: SCHEMA_MISMATCH, FOLD_TOO_LARGE.
    """
    if not text:
        return ""
    schema = AdapterSchema.from_json(text)
    check_schema(spec, schema)
    check_fold_fits(spec, schema)
    return schema.to_json()


def check_schema(spec: JobSpec, schema: AdapterSchema) -> None:
    """Check a schema against the job itself. Raises SCHEMA_MISMATCH."""

    def refuse(field: str, value: object, problem: str, fix: str) -> None:
        raise FedhftError.field(ErrorCode.SCHEMA_MISMATCH, field, value, problem, fix)

    if spec.model.digest and schema.base_digest != spec.model.digest:
        refuse("model.digest", schema.base_digest, f"the job pins {spec.model.digest}", "use the job's base model")
    if tuple(schema.labels) != tuple(spec.task.labels):
        refuse("labels", schema.labels, f"the job has {list(spec.task.labels)}", "use the job's label names, in order")
    if not schema.head and spec.task.has_head:
        refuse("head", schema.head, "the schema has no task head", "load the model with a head for the job's task")
    if spec.method.uses_adapters:
        if not schema.slots or schema.weights:
            refuse("slots", len(schema.slots), "the job trains LoRA slots and no base weights", "match adapter.targets")
        try:
            ranks = spec.adapter.ranks_of(schema.layers)
        except ValueError as error:
            raise FedhftError(ErrorCode.SCHEMA_MISMATCH, str(error)) from error
        for slot in schema.slots:
            if slot.rank != ranks[slot.layer]:
                wanted = f"{slot.name}: the job gives layer {slot.layer} rank {ranks[slot.layer]}"
                refuse("slots.rank", slot.rank, wanted, "build slots of the job's ranks")
    elif schema.slots or not schema.weights:
        refuse("weights", len(schema.weights), "the job trains all weights and no slots", "list the base weights")


def check_anchor_signature(spec: JobSpec, signature: tuple[float, ...], halves: tuple[float, ...]) -> None:
    """Check for an anchor signature where the job clusters by them; elsewhere it is not looked at, nor kept.

    Raises FedhftError: INVALID_ARGUMENT, NON_FINITE.
    """
    if spec.method.clusters_by_anchors:
        check_signature(signature)
        check_halves(halves)


def check_same_schema(stored: AdapterSchema, presented: AdapterSchema) -> None:
    """Check that a client's schema equals the job's. Raises SCHEMA_MISMATCH, which lists the differences."""
    if differences := stored.differences(presented):
        raise FedhftError(
            ErrorCode.SCHEMA_MISMATCH,
            f"the agent's schema differs from the job's: {'; '.join(differences)}; use the job's model and labels",
        )


def capacity_of(application: Application, known: Capacity | None, *, same_data: bool = True) -> Capacity:
    """What is known of a client's device once it joins, in jobs that plan by capacity. same_data: as when it was known.

    A trial is believed until the first round tells more; one that cannot have been measured is not.
    """
    now = replace(
        known or Capacity(),
        keeps=application.keeps_frozen_layers,
        deepest=application.deepest or None,
        most_steps=application.most_steps or None,
    )
    if not same_data:
        now = replace(now, kept=(), scored_at=(), scoring=None)
    trial = application.trial
    if known is None and trial is not None and not trial.problem():
        scoring = min(trial.scoring, float(application.samples)) or None
        now = replace(estimated(now, trial), fixed=None, scoring=scoring)
    return now


def client_record(spec: JobSpec, application: Application, known: ClientRecord | None, now_ms: int) -> ClientRecord:
    """The record of a client whose application was checked. known: its record from an earlier join.

    A client that joins again keeps the time of its first join and, where signatures come with updates, its last one.
    """
    anchors = spec.method.clusters_by_anchors
    signature = application.signature if anchors else ()
    return ClientRecord(
        client=application.client,
        tier=tier_of(spec, application.client, application.memory_bytes, application.tier, application.too_large),
        samples=application.samples,
        data_digest=application.data_digest,
        signature=signature or (known.signature if known else ()),
        halves=application.halves if anchors else (),
        has_shared_validation=application.has_shared_validation,
        joined_ms=known.joined_ms if known else now_ms,
        too_large=application.too_large,
    )
