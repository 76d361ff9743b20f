"""Where everything of one run lies. The only place that knows the names of a run's files."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.configuration import absolute


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/`, the record of one run.

    Attributes:
        root: The folder itself; absolute, because Ray's workers have other working directories.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The complete effective configuration."""
        return self.root / "config.yaml"

    @property
    def datasets(self) -> Path:
        """Root of the Minari datasets that jobs on a cluster download, one for all runs beside it."""
        return self.root.parent / "datasets"

    @property
    def behaviour(self) -> Path:
        """Root of the Minari datasets that jobs/collect.py writes (a MINARI_DATASETS_PATH)."""
        return self.root / "behaviour"

    @property
    def behaviour_parts(self) -> Path:
        """Episodes of a collection that is not finished."""
        return self.root / "behaviour.parts"

    @property
    def shards(self) -> Path:
        """Shards and their manifest."""
        return self.root / "shards"

    def shards_at(self, output: str | None) -> str:
        """Where shards lie: at `data.output` (a path or URI) where that is set, else in `shards`."""
        return str(self.shards) if output is None else absolute(output)

    @property
    def checkpoints(self) -> Path:
        """One folder per kept checkpoint."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object per line: what training reported."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tensorboard"

    @property
    def evaluation(self) -> Path:
        """One folder for each row that was evaluated."""
        return self.root / "evaluation"

    def episodes(self, row: str) -> Path:
        """Parquet of one row's evaluation episodes."""
        return self.evaluation / row

    def videos(self, row: str) -> Path:
        """Films of one row's first episodes."""
        return self.root / "videos" / row

    @property
    def sweep(self) -> Path:
        """One folder per setting that was tried, and their table."""
        return self.root / "sweep"

    @property
    def summary(self) -> Path:
        """The table for programs."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.root / "report.html"
