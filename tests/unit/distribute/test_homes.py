"""Shards stay with their workers when others go and come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.distribute_homes import Homes


def test_the_first_workers_share_evenly() -> None:
    assert sorted(Homes(4).assign(["b", "a"])) == ["a", "a", "b", "b"]


def test_only_the_shards_of_a_lost_worker_move() -> None:
    homes = Homes(6)
    before = homes.assign(["a", "b", "c"])
    after = homes.assign(["a", "c"])
    assert all(now == old for now, old in zip(after, before, strict=True) if old != "b")
    assert sorted(after) == ["a"] * 3 + ["c"] * 3


def test_a_newcomer_gets_nothing_before_it_is_ready() -> None:
    homes = Homes(4)
    homes.assign(["a", "b"])
    assert homes.newcomers(["a", "b", "c"]) == {"c"}
    assert "c" not in homes.assign(["a", "b", "c"])
    moved = homes.next_to_move()
    found = homes.assign(["a", "b", "c"], ["c"])
    assert found[moved] == "c"
    assert homes.newcomers(["a", "b", "c"]) == set()


def test_when_all_are_lost_whoever_comes_begins_at_once() -> None:
    homes = Homes(3)
    homes.assign(["a"])
    assert homes.assign(["d", "e"]).count("d") in (1, 2)
    assert homes.n_ready == 2


@given(st.integers(1, 9), st.lists(st.sets(st.sampled_from("abcde"), min_size=1), min_size=1))
def test_every_shard_has_a_living_worker_and_none_has_two_more_than_another(
    n_shards: int, history: list[set[str]]
) -> None:
    homes = Homes(n_shards)
    for alive in history:
        newcomers = homes.newcomers(alive)
        if newcomers:
            assert 0 <= homes.next_to_move() < n_shards
        found = homes.assign(alive, newcomers)
        assert set(found) <= alive
        counts = [found.count(address) for address in alive]
        assert max(counts) - min(counts) <= 1
