"""Sources that disturb a preparation, and a preparation that pauses, to be killed meanwhile. Started by a test."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.data.config import SourceConfig
from pipeline.data.sources import Source
from pipeline.distributed import prepare
from pipeline.distributed.session import session
from pipeline.experiment import Experiment
from pipeline.records import Episode
from pipeline.run_folder import RunFolder
from tests.data.episodes import random_episodes
from tests.data.in_memory import MemorySource


@dataclass(frozen=True)
class PausingSource(MemorySource):
    """Waits, once some shards are there, until it is told to go on.

    Attributes:
        shards: Their folder; the file `go-on` beside it tells.
        pause_at: How many.
    """

    shards: Path = Path()
    pause_at: int = 4

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        while len(list(self.shards.glob("*.parquet"))) >= self.pause_at and not go_on(self.shards).exists():
            time.sleep(0.05)
        yield from super().read(ids)


@dataclass(frozen=True)
class FatalSource(MemorySource):
    """Ends every process that reads it."""

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield from super().read(ids)


def go_on(shards: Path) -> Path:
    return shards.parent / "go-on"


def only(source: Source) -> list[tuple[Source, SourceConfig]]:
    """In the form in which the driver finds its sources."""
    return [(source, SourceConfig(id="memory"))]


def main(config: Path) -> None:
    experiment = Experiment.model_validate(yaml.safe_load(config.read_text()))
    run = RunFolder(Path(experiment.runs) / experiment.name)
    source = PausingSource(random_episodes([40] * 30), shards=run.shards)
    prepare.resolve_sources = lambda *_: only(source)  # type: ignore[assignment]
    with session():
        prepare.prepare(experiment, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
