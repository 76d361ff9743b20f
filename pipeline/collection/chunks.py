"""Which chunks of episodes a collection takes: numbered from 0, without a gap, until they have enough steps."""

from pipeline.collection.parts import chunk_size


class Chunks:
    """What is there of a collection, what is under way, and what it still takes.

    How long episodes are shows only when they were collected. Until a chunk is there it is taken to be as long as those
    that are, and before the first one as long as it can be.

    Args:
        steps: Of the whole collection, at least.
        max_steps: Of one episode.
    """

    def __init__(self, steps: int, max_steps: int) -> None:
        self._steps, self._max_steps = steps, max_steps
        self._lengths: dict[int, list[int]] = {}
        self._steps_of: dict[int, int] = {}
        self._given: set[int] = set()
        self._seconds: list[float] = []
        self._count()

    @property
    def size(self) -> int:
        """Episodes of a chunk."""
        return chunk_size(self._max_steps)

    @property
    def steps(self) -> int:
        """Steps that are there."""
        return sum(self._steps_of.values())

    @property
    def missing(self) -> int:
        """Chunks that it still takes, those under way included."""
        return sum(chunk not in self._lengths for chunk in range(self._needed))

    @property
    def seconds_left(self) -> float:
        """What the missing chunks will take one actor; 0 before the first one was measured."""
        return self.missing * sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def next(self) -> int | None:
        """Returns the next chunk that is needed and counts it as given; None where all that are needed were given."""
        chunk = next((chunk for chunk in range(self._needed) if chunk not in self._given), None)
        if chunk is not None:
            self._given.add(chunk)
        return chunk

    def add(self, chunk: int, lengths: list[int], seconds: float | None = None) -> None:
        """Takes note that a chunk is there.

        Args:
            chunk: Its number.
            lengths: Steps of each of its episodes.
            seconds: What it took, None where an earlier run left it.
        """
        self._lengths[chunk], self._steps_of[chunk] = lengths, sum(lengths)
        self._given.add(chunk)
        if seconds is not None:
            self._seconds.append(seconds)
        self._count()

    def lengths(self) -> list[list[int]]:
        """Returns the steps of the episodes of each needed chunk, in order; all of them must be there."""
        return [self._lengths[chunk] for chunk in range(self._needed)]

    def _count(self) -> None:
        """Counts how many chunks it takes."""
        expected = self.steps / len(self._steps_of) if self._steps_of else self.size * self._max_steps
        total, self._needed = 0.0, 0
        while total < self._steps:
            total += self._steps_of.get(self._needed, expected)
            self._needed += 1
