"""Memberships from signatures (fedhft.clustering.gaussian_mixture)."""

from __future__ import annotations

import numpy as np
import pytest
from signing import DIMS, around, centroids, largest, named, same_partition, structureless

from fedhft.clustering.gaussian_mixture import Fitted, MixtureModel, update
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_sections import ClusteringSpec

AUTO = 0
THREE = [0, 1, 2] * 4


def settings(**changes: object) -> ClusteringSpec:
    return ClusteringSpec.model_validate({"smoothing": 0.0, **changes})


@pytest.mark.parametrize("covariance", ["diag", "tied"])
@pytest.mark.parametrize("clusters", [AUTO, 3])
def test_three_groups_of_twelve_clients_in_256_dimensions_are_recovered(covariance: str, clusters: int) -> None:
    for seed in range(20):
        signatures = named(around(centroids(3, seed), THREE, seed))
        fitted = update(signatures, None, {}, settings(covariance=covariance), clusters)
        assert fitted.clusters == 3
        assert fitted.dimensions == 2
        assert same_partition(largest(fitted.rows), THREE)


def test_memberships_sum_to_one_and_say_how_sure_they_are() -> None:
    fitted = update(named(around(centroids(3, 1), THREE, 1)), None, {}, settings(), 3)
    for row in fitted.rows.values():
        assert len(row) == 3
        assert sum(row) == pytest.approx(1.0)
        assert max(row) > 0.99
    assert np.isfinite(fitted.log_likelihood)


def test_groups_of_unequal_size_are_recovered() -> None:
    labels = [0] * 7 + [1] * 3 + [2] * 2
    for seed in range(20):
        fitted = update(named(around(centroids(3, seed), labels, seed)), None, {}, settings(), 3)
        assert same_partition(largest(fitted.rows), labels)


def test_clusters_keep_their_identity_while_clients_jitter() -> None:
    for seed in range(5):
        centers = centroids(3, seed)
        fitted = update(named(around(centers, THREE, 100 * seed)), None, {}, settings(), AUTO)
        first = largest(fitted.rows)
        for number in range(1, 12):
            # Every round new noise on every client, and the groups themselves drift.
            centers = centers + 0.02 * np.random.default_rng(number).standard_normal(centers.shape)
            jittered = named(around(centers, THREE, 100 * seed + number))
            fitted = update(jittered, fitted.model, fitted.rows, settings(), AUTO)
            assert largest(fitted.rows) == first


def test_a_warm_start_follows_the_last_components_whatever_their_order() -> None:
    signatures = named(around(centroids(3, 4), THREE, 4))
    fitted = update(signatures, None, {}, settings(), 3)
    turned = reordered(fitted.model, [2, 0, 1])
    again = update(signatures, turned, {}, settings(), 3)
    assert [(label + 1) % 3 for label in largest(fitted.rows)] == largest(again.rows)


def test_a_continued_fit_does_not_jump_between_splits_that_are_about_as_good() -> None:
    # Without structure many splits fit nearly alike, and a little jitter changes which of them fits best.
    moved = 0
    for seed in range(12):
        base = structureless(12, seed)
        fitted = update(named(base), None, {}, settings(), 3)
        for number in range(4):
            last = largest(fitted.rows)
            jitter = 0.002 * np.random.default_rng([seed, number]).standard_normal(base.shape)
            fitted = update(named(base + jitter), fitted.model, fitted.rows, settings(), 3)
            moved += sum(a != b for a, b in zip(last, largest(fitted.rows), strict=True))
    assert moved < 40  # of 576; 104 when every update starts afresh, 13 when it continues


def reordered(model: MixtureModel, order: list[int]) -> MixtureModel:
    """The same mixture with component order[j] as number j."""
    parts = model.gaussians
    kind = type(parts)(parts.kind, parts.weights[order], parts.means[order], parts.covariances[order])
    return MixtureModel(model.space, kind, model.confidence)


def test_a_new_start_that_fits_far_better_replaces_the_continued_one_and_keeps_identities() -> None:
    # Three components were fitted to two groups; then the third group arrives.
    for seed in range(10):
        centers = centroids(3, seed)
        early = named(around(centers, [0, 0, 0, 1, 1, 1, 1], seed))
        fitted = update(early, None, {}, settings(), 3)
        before = largest(fitted.rows)
        everybody = {**early, **named(around(centers, [2] * 8, seed + 50), first=7)}
        after = update(everybody, fitted.model, fitted.rows, settings(), 3)
        assert same_partition(largest(after.rows), [0] * 3 + [1] * 4 + [2] * 8)
        kept = [now for then, now in zip(before, largest(after.rows), strict=False) if then == now]
        assert len(kept) >= 4  # one of the two groups had been split in two, the other keeps its number


def test_memberships_are_smoothed_with_the_last_ones() -> None:
    signatures = named(around(centroids(2, 3), [0, 1] * 3, 3))
    sure = update(signatures, None, {}, settings(), 2)
    last = dict.fromkeys(signatures, (0.5, 0.5))
    smoothed = update(signatures, sure.model, last, settings(smoothing=0.8), 2)
    for name, row in sure.rows.items():
        assert smoothed.rows[name] == pytest.approx([0.8 * 0.5 + 0.2 * weight for weight in row], abs=1e-6)


def test_temperature_softens_memberships() -> None:
    signatures = named(around(centroids(2, 3, within=0.4), [0, 1] * 4, 3, within=0.4))
    sharp = update(signatures, None, {}, settings(), 2)
    soft = update(signatures, None, {}, settings(temperature=30.0), 2)
    assert largest(soft.rows) == largest(sharp.rows)
    sharp_odds, soft_odds = (
        np.log(fitted.model.assign(np.array([signatures["client-00"]], np.float64), temperature).ravel())
        for fitted, temperature in ((sharp, 1.0), (soft, 30.0))
    )
    certain = sharp.model.confidence
    assert certain > 0.9
    assert abs(soft_odds[0] - soft_odds[1]) < abs(sharp_odds[0] - sharp_odds[1])


def test_a_new_client_is_assigned_on_arrival_without_smoothing() -> None:
    centers = centroids(3, 5)
    signatures = named(around(centers, THREE, 5))
    fitted = update(signatures, None, {}, settings(), AUTO)
    newcomer = named(around(centers, [1], 99), first=12)
    after = update({**signatures, **newcomer}, fitted.model, fitted.rows, settings(smoothing=0.9), AUTO)
    assert int(np.argmax(after.rows["client-12"])) == largest(fitted.rows)[1]
    assert max(after.rows["client-12"]) > 0.99


def test_an_unsampled_client_keeps_its_memberships_exactly() -> None:
    signatures = named(around(centroids(3, 6), THREE, 6))
    fitted = update(signatures, None, {}, settings(), AUTO)
    rows = {**fitted.rows, "client-03": (0.2, 0.5, 0.3)}
    sampled = {name: value for name, value in signatures.items() if name != "client-03"}
    after = update(sampled, fitted.model, rows, settings(), AUTO)
    assert after.rows["client-03"] == (0.2, 0.5, 0.3)
    assert set(after.rows) == set(signatures)


def test_memberships_of_another_number_of_clusters_become_uniform_for_the_absent_and_new_for_the_present() -> None:
    signatures = named(around(centroids(2, 7), [0, 1] * 4, 7))
    before = dict.fromkeys([*signatures, "away"], (1.0,))
    fitted = update(signatures, None, before, settings(smoothing=0.9), 2)
    assert fitted.rows["away"] == (0.5, 0.5)
    assert max(fitted.rows["client-00"]) > 0.99


def test_too_few_clients_are_not_clustered_and_are_later() -> None:
    centers = centroids(3, 8)
    few = named(around(centers, [0, 1, 2, 0, 1], 8))
    waiting = update(few, None, {}, settings(), 3)
    assert waiting.clusters == 1
    assert set(waiting.rows.values()) == {(1.0,)}
    signatures = named(around(centers, THREE, 8))
    assert update(signatures, waiting.model, waiting.rows, settings(), 3).clusters == 3
    assert update(signatures, waiting.model, waiting.rows, settings(), AUTO).clusters == 3


def test_when_clients_leave_those_who_stay_are_told_apart_by_the_last_mixture() -> None:
    signatures = named(around(centroids(3, 9), THREE, 9))
    fitted = update(signatures, None, {}, settings(), AUTO)
    stayed = {name: signatures[name] for name in ("client-00", "client-01", "client-02")}
    rows = {name: fitted.rows[name] for name in stayed}
    after = update(stayed, fitted.model, rows, settings(), AUTO)
    assert after.clusters == 3
    assert after.model is fitted.model
    assert largest(after.rows) == largest(fitted.rows)[:3]


def test_the_chosen_number_of_clusters_stays() -> None:
    fitted = update(named(around(centroids(3, 10), THREE, 10)), None, {}, settings(), AUTO)
    nothing_left = named(structureless(12, 10))
    assert update(nothing_left, fitted.model, fitted.rows, settings(), AUTO).clusters == 3


def test_one_cluster_means_everybody_is_in_it() -> None:
    fitted = update(named(around(centroids(3, 1), THREE, 1)), None, {}, settings(), 1)
    assert fitted.clusters == 1
    assert fitted.dimensions == 0
    assert set(fitted.rows.values()) == {(1.0,)}


def test_clusters_that_signatures_do_not_show_get_nearly_uniform_memberships() -> None:
    spreads = []
    for seed in range(20):
        fitted = update(named(structureless(12, seed)), None, {}, settings(), 2)
        spreads.append(np.mean([max(row) for row in fitted.rows.values()]))
    assert np.median(spreads) < 0.6
    assert np.mean(spreads) < 0.65


def test_confidence_does_not_fall_when_signatures_fade() -> None:
    signatures = named(around(centroids(3, 11), THREE, 11))
    fitted = update(signatures, None, {}, settings(), 3)
    faded = update(named(structureless(12, 3)), fitted.model, fitted.rows, settings(), 3)
    assert faded.model.confidence >= fitted.model.confidence > 0.99


def test_a_client_whose_signature_says_nothing_gets_the_mixture_s_weights() -> None:
    signatures = named(around(centroids(2, 12), [0, 0, 0, 0, 0, 0, 1, 1], 12))
    signatures["silent"] = np.zeros(DIMS, np.float32)
    fitted = update(signatures, None, {}, settings(), 2)
    crowd = largest(fitted.rows)[0]
    assert fitted.rows["silent"][crowd] == pytest.approx(0.75, abs=0.01)
    assert update({"a": signatures["silent"]}, None, {}, settings(), AUTO).rows == {"a": (1.0,)}


def test_equal_signatures_are_one_cluster_however_many_are_asked_for() -> None:
    one = around(centroids(1, 13), [0], 13)
    same = named(np.repeat(one, 8, axis=0))
    for clusters in (AUTO, 3):
        fitted = update(same, None, {}, settings(), clusters)
        assert len({tuple(row) for row in fitted.rows.values()}) == 1


def test_scale_and_order_of_signatures_do_not_matter_and_results_are_deterministic() -> None:
    signatures = named(around(centroids(3, 14), THREE, 14))
    fitted = update(signatures, None, {}, settings(), AUTO)
    turned = update(dict(reversed(signatures.items())), None, {}, settings(), AUTO)
    assert turned.rows == fitted.rows
    assert turned.model.to_json() == fitted.model.to_json()
    scaled = {name: np.float32(4.0**i) * value for i, (name, value) in enumerate(signatures.items())}
    for name, row in update(scaled, None, {}, settings(), AUTO).rows.items():
        assert row == pytest.approx(fitted.rows[name])


@pytest.mark.parametrize("covariance", ["diag", "tied"])
@pytest.mark.parametrize("clusters", [1, 3])
def test_a_model_survives_json_exactly(covariance: str, clusters: int) -> None:
    signatures = named(around(centroids(3, 15), THREE, 15))
    fitted = update(signatures, None, {}, settings(covariance=covariance), clusters)
    restored = MixtureModel.from_json(fitted.model.to_json())
    assert restored.to_json() == fitted.model.to_json()
    jittered = named(around(centroids(3, 15), THREE, 16))
    first, second = (
        update(jittered, model, fitted.rows, settings(covariance=covariance), clusters)
        for model in (fitted.model, restored)
    )
    assert outcome(first) == outcome(second)


def outcome(fitted: Fitted) -> tuple[object, ...]:
    return (fitted.rows, fitted.log_likelihood, fitted.model.to_json())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":2}', '{"format":1,"covariance":"full"}'])
def test_text_that_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(FedhftError) as refusal:
        MixtureModel.from_json(text)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT


def test_signatures_that_cannot_be_compared_are_refused_by_client() -> None:
    signatures = named(around(centroids(2, 1), [0, 1] * 3, 1))
    fitted = update(signatures, None, {}, settings(), 2)
    with pytest.raises(FedhftError, match="client-03") as refusal:
        update({**signatures, "client-03": np.ones(DIMS - 1, np.float32)}, None, {}, settings(), 2)
    assert refusal.value.code is ErrorCode.INVALID_ARGUMENT
    with pytest.raises(FedhftError, match="client-03") as refusal:
        update({**signatures, "client-03": np.full(DIMS, np.nan, np.float32)}, None, {}, settings(), 2)
    assert refusal.value.code is ErrorCode.NON_FINITE
    with pytest.raises(FedhftError):
        update({name: value[:128] for name, value in signatures.items()}, fitted.model, fitted.rows, settings(), 2)
