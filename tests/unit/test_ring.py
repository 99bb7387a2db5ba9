"""The ring: contiguous, within its budget, and within the budget that all rings share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubbub.core.ring import Ring, RingPool
from hubbub.model import Publication

ONE = Publication(b"x", 1).size


def filled(ring: Ring, *offsets: int) -> Ring:
    for offset in offsets:
        ring.append(Publication(b"x", offset))
    return ring


def offsets(ring: Ring, after: int, upto: int) -> list[int] | None:
    found = ring.range(after, upto)
    return None if found is None else [item.offset for item in found]


def test_gives_all_of_a_range_or_none_of_it() -> None:
    ring = filled(Ring(RingPool()), 3, 4, 5)
    assert offsets(ring, 2, 5) == [3, 4, 5]
    assert offsets(ring, 3, 4) == [4]
    assert offsets(ring, 1, 5) is None
    assert offsets(ring, 3, 6) is None
    assert offsets(ring, 5, 5) == []


def test_starts_anew_at_a_hole() -> None:
    assert offsets(filled(Ring(RingPool()), 3, 4, 7), 6, 7) == [7]


def test_drops_the_oldest_over_its_budget_but_keeps_the_newest() -> None:
    ring = filled(Ring(RingPool(), 2 * ONE), 1, 2, 3)
    assert offsets(ring, 1, 3) == [2, 3]
    ring.append(Publication(b"x" * 1000, 4))
    assert offsets(ring, 3, 4) == [4]


def test_extends_back_as_far_as_fits() -> None:
    ring = filled(Ring(RingPool(), 3 * ONE), 5)
    ring.extend_back([Publication(b"x", offset) for offset in (1, 2, 3, 4, 5)])
    assert offsets(ring, 2, 5) == [3, 4, 5]


def test_does_not_extend_back_over_a_hole() -> None:
    ring = filled(Ring(RingPool()), 5)
    ring.extend_back([Publication(b"x", 3)])
    assert offsets(ring, 2, 5) is None


def test_the_pool_empties_what_was_longest_unused() -> None:
    pool = RingPool(3 * ONE)
    old, new = filled(Ring(pool), 1, 2), filled(Ring(pool), 1)
    new.append(Publication(b"x", 2))
    assert (len(old), len(new), pool.evicted, pool.used) == (0, 2, 1, 2 * ONE)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["append", "jump", "back", "clear"]), st.integers(0, 400)),
        max_size=60,
    )
)
def test_the_pool_knows_what_its_rings_hold(steps: list[tuple[int, str, int]]) -> None:
    pool = RingPool(3000)
    rings = [Ring(pool, 1500) for _ in range(3)]
    tops = [10, 10, 10]
    for which, what, size in steps:
        ring = rings[which]
        if what == "clear":
            ring.clear()
        elif what == "back" and ring._items:
            first = ring._items[0].offset
            ring.extend_back([Publication(b"x" * size, offset) for offset in range(max(1, first - 3), first)])
        else:
            tops[which] += 2 if what == "jump" else 1
            ring.append(Publication(b"x" * size, tops[which]))
        for each in rings:
            numbers = [item.offset for item in each._items]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
            assert each._bytes == sum(item.size for item in each._items)
            assert each._bytes <= 1500
        assert pool.used == sum(each._bytes for each in rings) <= 3000
