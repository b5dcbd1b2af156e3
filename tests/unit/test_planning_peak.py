"""Plans within a budget: the prediction stays below it, and more memory never makes anything smaller."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fedhft.planning.peak import LEAST, UNBOUNDED, Arrangement, Costs, Load, PassCost, Unfit, arranged, parts

MIB = 1 << 20
costs_of_a_pass = st.builds(
    PassCost,
    fixed=st.integers(0, 50 * MIB),
    token=st.integers(0, 1 << 20),
    pair=st.integers(0, 1 << 12),
    place=st.integers(0, 1 << 20),
)
costs = st.builds(Costs, training=costs_of_a_pass, recomputed=costs_of_a_pass, scoring=costs_of_a_pass)
loads = st.builds(
    Load,
    held=st.integers(100 * MIB, 400 * MIB),
    mapped=st.integers(0, 400 * MIB),
    layer=st.integers(0, 200 * MIB),
    trained=st.integers(1, 10**7),
    sent=st.integers(1, 10**7),
    batch=st.integers(1, 64),
    scored=st.integers(1, 64),
    width=st.integers(2, 512),
    places=st.integers(1, 64),
)
memories = st.integers(1, 4096 * MIB)


def rows_in_a_part(found: Arrangement, load: Load) -> int:
    """Of the longest rows, in one pass of training."""
    first = found.training_parts_of([load.width] * load.batch, [load.places] * load.batch)[0]
    return first.stop - first.start


@given(loads, costs, memories)
def test_what_is_chosen_is_predicted_to_stay_within_the_budget(load: Load, cost: Costs, memory: int) -> None:
    found = arranged(load, cost, memory)
    if isinstance(found, Unfit):
        assert found.needed > found.allowed == memory
    else:
        assert load.held + load.mapped < found.predicted <= memory


@given(loads, costs, memories, st.integers(0, 1024 * MIB))
def test_more_memory_never_gives_smaller_parts_nor_refuses(load: Load, cost: Costs, memory: int, more: int) -> None:
    first, second = arranged(load, cost, memory), arranged(load, cost, memory + more)
    if isinstance(first, Unfit):
        return
    assert isinstance(second, Arrangement)
    assert rows_in_a_part(second, load) >= rows_in_a_part(first, load)
    assert first.recompute or not second.recompute
    assert second.predicted >= first.predicted or first.recompute


@given(loads, costs)
def test_the_least_that_a_plan_is_said_to_need_is_enough(load: Load, cost: Costs) -> None:
    refused = arranged(load, cost, 1)
    assert isinstance(refused, Unfit)
    assert isinstance(arranged(load, cost, refused.needed), Arrangement)
    assert isinstance(arranged(load, cost, refused.needed - 1), Unfit)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 9)), min_size=1, max_size=40), costs_of_a_pass, memories)
def test_parts_hold_every_row_once_in_order_and_stay_within_the_room(
    rows: list[tuple[int, int]], cost: PassCost, room: int
) -> None:
    widths, places = [row[0] for row in rows], [row[1] for row in rows]
    found = parts(widths, places, cost, room)
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(len(rows)))
    for part in found:
        count = part.stop - part.start
        assert count == 1 or cost.bytes(count, max(widths[part]), sum(places[part])) <= room


def test_without_a_budget_batches_are_whole_and_with_the_least_they_are_single_rows() -> None:
    assert UNBOUNDED.training_parts_of([3, 4, 5], [1, 1, 1]) == [slice(0, 3)]
    assert (
        LEAST.training_parts_of([3, 4], [1, 1]) == [slice(0, 1), slice(1, 2)] == LEAST.scoring_parts_of([3, 4], [1, 1])
    )
    assert LEAST.recompute


def test_layers_are_run_twice_only_where_a_row_does_not_fit_otherwise() -> None:
    load = Load(held=100, mapped=0, layer=0, trained=1, sent=1, batch=8, scored=8, width=10, places=1)
    cost = Costs(PassCost(0, 100, 0, 0), PassCost(0, 30, 0, 0), PassCost(0, 10, 0, 0))
    spare = arranged(load, cost, 1)
    assert isinstance(spare, Unfit)
    tight = arranged(load, cost, spare.needed)
    assert isinstance(tight, Arrangement)
    assert tight.recompute
    ample = arranged(load, cost, spare.needed + 700)
    assert isinstance(ample, Arrangement)
    assert not ample.recompute
    assert replace(ample, training=None).training_parts_of([10] * 8, [1] * 8) == [slice(0, 8)]
