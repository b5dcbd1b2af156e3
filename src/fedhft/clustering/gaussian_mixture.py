"""Memberships from signatures: a Gaussian mixture that keeps its clusters' identities (FedHFT, arXiv 2510.14054).

    signatures -> unit norm -> partition -> the J - 1 directions in which its means differ
    -> mixture (first: several starts; then: from the last means)
    -> components matched to the last ones -> posteriors ^ (1 / temperature) -> averaged with uniform ones by confidence
    -> smoothed with the last memberships

J is fixed by the job, or chosen anew as data change (choice.py), or, of updates' signatures, chosen (selection.py) at
the first clustering that finds more than one. Fewer than 2 J clients are not clustered at all. Where the job asks for
clusters that the signatures do not show, confidence is near 0 and memberships near uniform: all clusters learn the
same, and nothing is lost by asking.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedhft.adapter import Float32, Float64
from fedhft.clustering.fitting import Covariance, Fit, Gaussians, best_fit, fit, log_sum_exp
from fedhft.clustering.identity import Lineage, lineage, match
from fedhft.clustering.partition import continued, evenly, partitions
from fedhft.clustering.selection import choose_clusters, confidence, margin
from fedhft.clustering.subspace import Subspace, principal, spanned
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_sections import ClusteringSpec

_FORMAT = 1
_LONGEST = 64 << 20
_MARGIN_OF_CHANGE = 2.0
"""Nats by which a new start must be likelier than the continued one when somebody's data changed."""


@dataclass(frozen=True, eq=False)
class MixtureModel:
    """A fitted mixture: what warm start, identity and newcomers need. One cluster has a space of no dimensions.

    confidence: weight in [0, 1] of these clusters against there being only one. Where the job fixes J it never falls
    from fit to fit.
    """

    space: Subspace
    gaussians: Gaussians
    confidence: float

    @property
    def clusters(self) -> int:
        """Number of components J."""
        return len(self.gaussians.weights)

    @property
    def means(self) -> Float64:
        """Component means in signature space, (J x D)."""
        return self.space.lift(self.gaussians.means)

    def assign(self, signatures: Float64, temperature: float) -> Float64:
        """Memberships (n x J) of unit-norm signatures (n x D), unsmoothed; a zero one gets the mixture's weights."""
        if self.clusters == 1:
            return np.ones((len(signatures), 1))
        joint = self.gaussians.log_joint(self.space.project(signatures)) / temperature
        posteriors: Float64 = np.exp(joint - log_sum_exp(joint)[:, None])
        unknown = ~signatures.any(axis=1)
        posteriors[unknown] = self.gaussians.weights
        return self.confidence * posteriors + (1.0 - self.confidence) / self.clusters

    def to_json(self) -> str:
        """Exact text form: arrays are base64 of little-endian float64."""
        return json.dumps(
            {
                "format": _FORMAT,
                "confidence": self.confidence,
                "covariance": self.gaussians.kind,
                "center": _text(self.space.center),
                "basis": _text(self.space.basis),
                "weights": _text(self.gaussians.weights),
                "means": _text(self.gaussians.means),
                "covariances": _text(self.gaussians.covariances),
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> MixtureModel:
        """Inverse of to_json. Raises FedhftError(INVALID_ARGUMENT) for anything else."""
        try:
            raw: dict[str, Any] = parse_json(text, "mixture", ErrorCode.INVALID_ARGUMENT, most_bytes=_LONGEST)
            kind: Covariance = raw["covariance"]
            if raw["format"] != _FORMAT or kind not in ("diag", "tied"):
                raise ValueError(f"format {raw['format']}, covariance {kind}")
            weights, center = _array(raw["weights"]), _array(raw["center"])
            basis = _array(raw["basis"]).reshape(-1, len(center))
            dims = len(basis)
            means = _array(raw["means"]).reshape(len(weights), dims)
            shape = (len(weights), dims) if kind == "diag" else (dims, dims)
            spread = _array(raw["covariances"]).reshape(shape)
            certain = float(raw["confidence"])
        except (ValueError, KeyError, TypeError) as error:
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT, f"the mixture cannot be read: {error}; run the clustering again"
            ) from error
        return cls(Subspace(center, basis), Gaussians(kind, weights, means, spread), certain)


@dataclass(frozen=True, eq=False)
class Fitted:
    """New memberships.

    rows: client -> weights over clusters, summing to 1. log_likelihood: mean per client, nats, in the fit's own space;
    0 where nothing was fitted. dimensions: of the mixture, 0 for one cluster. origins: where the number of
    clusters changed, each one's state as a weighting of those before, (J x K); () elsewhere.
    """

    model: MixtureModel
    rows: Mapping[str, tuple[float, ...]]
    clusters: int
    log_likelihood: float
    dimensions: int
    origins: tuple[tuple[float, ...], ...] = ()


def update(
    signatures: Mapping[str, Float32],
    previous: MixtureModel | None,
    previous_rows: Mapping[str, Sequence[float]],
    settings: ClusteringSpec,
    clusters: int,
    *,
    certainty: float | None = None,
    changed: Collection[str] = (),
    weights: Mapping[str, float] | None = None,
) -> Fitted:
    """Fit the mixture to the clients' signatures and return everybody's memberships.

    signatures: client -> float32 (D,), equally long, any norm; zeros say nothing. previous, previous_rows: what the
    last update returned, None and {} at first. clusters: J, or 0 for auto. certainty: the model's confidence, where it
    is known from elsewhere. changed: clients whose data changed. weights: q_i of clients, 1 without.
    A client in previous_rows without a signature keeps its memberships (where J changed, over what became of its
    clusters); a new one, and one whose data changed, gets its posterior unsmoothed. Equal arguments give equal results.
    Raises FedhftError: INVALID_ARGUMENT for signatures of unequal length or another than last time's, NON_FINITE.
    """
    names = sorted(signatures)
    known = _unit_norm(names, signatures, previous)
    fitted_on = known[known.any(axis=1)]
    wanted = _wanted(fitted_on, previous, settings, clusters)
    if wanted == 1:
        model, likelihood = _single(known), 0.0
    elif len(fitted_on) < 2 * wanted and previous is not None:
        model, likelihood = previous, 0.0  # too few to fit; those who are here are still told apart
    else:
        model, likelihood = _fit(fitted_on, wanted, previous, settings, certainty, bool(changed))
    posteriors = model.assign(known, settings.temperature)
    moved: Lineage | None = None
    if previous is not None and previous.clusters != model.clusters:
        moved = _moved(previous, model, names, posteriors, previous_rows, weights or {})
    rows = {client: _kept(row, model.clusters, moved) for client, row in previous_rows.items()}
    for name, posterior in zip(names, posteriors, strict=True):
        last = previous_rows.get(name)
        continues = last is not None and len(last) == model.clusters and name not in changed
        share = settings.smoothing if continues else 0.0
        rows[name] = _normalised(share * np.asarray(rows.get(name, posterior)) + (1.0 - share) * posterior)
    origins = tuple(tuple(row) for row in moved.origins.tolist()) if moved else ()
    return Fitted(model, dict(sorted(rows.items())), model.clusters, likelihood, len(model.space.basis), origins)


def _moved(
    previous: MixtureModel,
    model: MixtureModel,
    names: list[str],
    posteriors: Float64,
    previous_rows: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
) -> Lineage:
    """What became of the previous clusters, by those clients that are in both."""
    known = [place for place, name in enumerate(names) if len(previous_rows.get(name, ())) == previous.clusters]
    clients = [names[place] for place in known]
    before = np.array([previous_rows[client] for client in clients], np.float64).reshape(-1, previous.clusters)
    mass = np.array([weights.get(client, 1.0) for client in clients], np.float64)
    return lineage(previous.means, model.means, before, posteriors[known], mass)


def _wanted(signatures: Float64, previous: MixtureModel | None, settings: ClusteringSpec, clusters: int) -> int:
    if previous is not None and previous.clusters > 1 and clusters in (0, previous.clusters):
        return previous.clusters
    if clusters == 0:
        return choose_clusters(signatures, settings.maximum)
    return clusters if len(signatures) >= 2 * clusters else 1


def _fit(
    signatures: Float64,
    clusters: int,
    previous: MixtureModel | None,
    settings: ClusteringSpec,
    certainty: float | None,
    changed: bool,
) -> tuple[MixtureModel, float]:
    compared = signatures[evenly(len(signatures))]
    if previous is not None and previous.clusters == clusters and not changed:
        labels = continued(compared, previous.means)
    else:
        [labels] = partitions(compared, [clusters])
    space = principal(signatures, clusters - 1) if labels is None else spanned(compared, labels)
    if len(space.basis) == 0:
        return _single(signatures), 0.0
    points = space.project(signatures)
    chosen = best_fit(points, clusters, settings.covariance, settings.ridge)
    certain = confidence(signatures, clusters) if certainty is None else certainty
    if previous is not None:
        if previous.clusters == clusters:
            certain = max(certain, previous.confidence) if certainty is None else certain
            warm = fit(points, space.project(previous.means), settings.covariance, settings.ridge)
            # While nothing changed a new start takes the evidence that would justify another cluster.
            asked = _MARGIN_OF_CHANGE if changed else margin(len(signatures))
            if chosen.log_likelihood - warm.log_likelihood < asked:
                chosen = warm
        chosen = _reordered(chosen, match(previous.means, space.lift(chosen.gaussians.means)).tolist())
    return MixtureModel(space, chosen.gaussians, certain), chosen.log_likelihood / len(signatures)


def _reordered(one: Fit, order: list[int]) -> Fit:
    parts = one.gaussians
    spread = parts.covariances[order] if parts.kind == "diag" else parts.covariances
    return Fit(Gaussians(parts.kind, parts.weights[order], parts.means[order], spread), one.log_likelihood)


def _single(signatures: Float64) -> MixtureModel:
    width = signatures.shape[1]
    center = signatures.mean(axis=0) if len(signatures) else np.zeros(width)
    nothing = np.zeros((1, 0))
    return MixtureModel(Subspace(center, np.zeros((0, width))), Gaussians("diag", np.ones(1), nothing, nothing), 1.0)


def _unit_norm(names: list[str], signatures: Mapping[str, Float32], previous: MixtureModel | None) -> Float64:
    width = len(previous.space.center) if previous is not None else None
    for name in names:
        shape = np.shape(signatures[name])
        if width is None and len(shape) == 1:
            width = shape[0]
        if shape != (width,):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT,
                f"signature of {name}",
                shape,
                f"is not of length {width} like the others of this job",
                "let the client join again with the same release",
            )
        if not np.isfinite(signatures[name]).all():
            raise FedhftError(
                ErrorCode.NON_FINITE, f"signature of {name}: has values that are not finite; let the client join again"
            )
    matrix = np.array([signatures[name] for name in names], np.float64).reshape(len(names), width or 0)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Float64 = matrix / np.where(norms > 0.0, norms, 1.0)
    return unit


def _kept(row: Sequence[float], clusters: int, moved: Lineage | None) -> tuple[float, ...]:
    if len(row) == clusters:
        return tuple(row)
    if moved is not None and len(row) == len(moved.shares):
        return _normalised(np.asarray(row, np.float64) @ moved.shares)
    return (1.0 / clusters,) * clusters


def _normalised(row: Float64) -> tuple[float, ...]:
    return tuple((row / row.sum()).tolist())


def _text(array: Float64) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode("ascii")


def _array(text: str) -> Float64:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f8").astype(np.float64)
