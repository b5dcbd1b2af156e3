"""Which updates point against the others."""

from __future__ import annotations

import numpy as np
import pytest

from fedhft.adapter import MaskedDelta, MaskedMatrix, Part, TensorKey
from fedhft.aggregation.direction import BUCKETS, Measured, _unpacked, opposed

KEY, HEAD = TensorKey("layer", Part.B), TensorKey("head", Part.HEAD)


def update(values: np.ndarray, index: np.ndarray | None = None) -> MaskedDelta:
    head = np.asarray(values[:6, :4], np.float32)
    matrix = MaskedMatrix(64, 32, index, np.asarray(values if index is None else values[index], np.float32))
    return MaskedDelta({KEY: matrix, HEAD: MaskedMatrix(6, 4, None, np.ascontiguousarray(head))})


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(64, 32))


def flat(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values.ravel(), values[:6, :4].ravel()])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("mixed", [-1.0, -0.4, 0.0, 0.3, 1.0, 5.0])
def test_sketches_of_two_updates_have_their_cosine(mixed: float) -> None:
    found, true = [], []
    for seed in range(20):
        a, b = drawn(seed), drawn(seed + 100)
        b = b + mixed * a
        one, other = (_unpacked(Measured.of(update(values)).sketch) for values in (a, b))
        found.append(float(one @ other))
        true.append(cosine(flat(a), flat(b)))
    assert np.abs(np.subtract(found, true)).max() < 5 / np.sqrt(BUCKETS)
    assert abs(float(np.mean(np.subtract(found, true)))) < 2 / np.sqrt(BUCKETS)


def test_a_sketch_does_not_depend_on_size_and_says_which_rows_were_sent() -> None:
    values = drawn(1)
    assert Measured.of(update(values)).sketch == Measured.of(update(64 * values)).sketch
    half = np.arange(0, 64, 2, dtype=np.int32)
    whole = np.zeros_like(values)
    whole[half] = values[half]
    masked = MaskedDelta({KEY: MaskedMatrix(64, 32, half, np.asarray(values[half], np.float32))})
    full = MaskedDelta({KEY: MaskedMatrix(64, 32, None, np.asarray(whole, np.float32))})
    assert Measured.of(masked) == Measured.of(full)
    assert Measured.of(update(0 * values)).sketch == ""


def group(count: int, seed: int, sign: float = 1.0, alike: float = 0.7) -> dict[str, str]:
    common = drawn(seed)
    return {
        f"{seed}-{number}": Measured.of(update(sign * (alike * common + drawn(seed * 1000 + number + 1)))).sketch
        for number in range(count)
    }


def one_cluster(sketches: dict[str, str]) -> dict[str, tuple[float, ...]]:
    return dict.fromkeys(sketches, (1.0,))


def test_a_flipped_update_is_found_among_those_that_agree() -> None:
    flipped = Measured.of(update(-0.7 * drawn(7) - drawn(9))).sketch
    sketches = {**group(3, 7), "hostile": flipped}
    assert opposed(sketches, one_cluster(sketches), 0.1) == ("hostile",)
    assert opposed(sketches, one_cluster(sketches), 0.0) == ()


def test_updates_that_have_nothing_in_common_are_all_kept() -> None:
    sketches = {str(seed): Measured.of(update(drawn(seed))).sketch for seed in range(30)}
    assert opposed(sketches, one_cluster(sketches), 0.15) == ()


def test_where_a_half_points_against_the_other_nobody_is_left_out() -> None:
    sketches = {**group(4, 7), **{f"x{name}": sketch for name, sketch in group(4, 7, sign=-1.0).items()}}
    assert opposed(sketches, one_cluster(sketches), 0.1) == ()
    two = {"a": Measured.of(update(drawn(1))).sketch, "b": Measured.of(update(-drawn(1))).sketch}
    assert opposed(two, one_cluster(two), 0.1) == ()


def test_a_minority_in_a_cluster_of_its_own_is_judged_by_itself() -> None:
    majority, minority = group(6, 7), {f"m{name}": sketch for name, sketch in group(2, 7, sign=-1.0).items()}
    together = {**majority, **minority}
    apart = {**dict.fromkeys(majority, (1.0, 0.0)), **dict.fromkeys(minority, (0.0, 1.0))}
    assert opposed(together, apart, 0.1) == ()
    assert set(opposed(together, one_cluster(together), 0.1)) == set(minority)
