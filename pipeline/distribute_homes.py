"""Which worker keeps which shard: as few moves as possible when workers go and come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection


class Homes:
    """The worker of every shard.

    A shard stays where its data are cached. Those of a worker that is gone are taken by the ones
    with the fewest; a worker that comes takes shards of those with the most, but only once it is
    ready: until then every product would wait for it.

    Parameters
    ----------
    n_shards : how many shards there are.
    """

    def __init__(self, n_shards: int) -> None:
        self._homes: list[str | None] = [None] * n_shards
        self._ready: set[str] = set()

    @property
    def n_ready(self) -> int:
        """Number of workers that shards are given to."""
        return len(self._ready)

    def newcomers(self, alive: Collection[str]) -> set[str]:
        """Workers that have joined since the first ones, and are not ready yet."""
        return set(alive) - self._ready if self._ready else set()

    def next_to_move(self) -> int:
        """The shard that a worker which becomes ready would take first."""
        return self._shards_of(self._fullest())[-1]

    def assign(self, alive: Collection[str], prepared: Collection[str] = ()) -> list[str]:
        """Find a worker for every shard.

        Parameters
        ----------
        alive : addresses of all workers, at least one.
        prepared : those among the newcomers that have become ready.

        Returns
        -------
        list of one address for each shard.
        """
        self._ready = (self._ready | set(prepared)) & set(alive)
        # The first workers, and those after all others are lost, begin at once.
        self._ready = self._ready or set(alive)
        self._homes = [home if home in self._ready else None for home in self._homes]
        for shard, home in enumerate(self._homes):
            if home is None:
                self._homes[shard] = self._emptiest()
        while self._count(self._fullest()) > self._count(self._emptiest()) + 1:
            self._homes[self.next_to_move()] = self._emptiest()
        return [str(home) for home in self._homes]

    def _shards_of(self, address: str) -> list[int]:
        return [shard for shard, home in enumerate(self._homes) if home == address]

    def _count(self, address: str) -> int:
        return Counter(self._homes)[address]

    def _emptiest(self) -> str:
        return min(sorted(self._ready), key=self._count)

    def _fullest(self) -> str:
        return max(sorted(self._ready), key=self._count)
