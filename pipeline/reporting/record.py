"""What lies in a run's folder, for everything that reports on it.

A missing file is None or empty; a broken one raises the error of the package that reads it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.configuration import claimed_identity
from pipeline.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.data.storage import Folder, Location
from pipeline.errors import StorageError
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.subject import model_sums
from pipeline.evaluation.summary import read_summary
from pipeline.methods.checkpoint import LoadedCheckpoint, load_checkpoint
from pipeline.records import EpisodeResult
from pipeline.reporting.table import ResultRow, result_rows
from pipeline.run_folder import RunFolder
from pipeline.stored import read_bytes, yaml_mapping
from pipeline.training.checkpoint import INFO, best_checkpoint, list_checkpoints
from pipeline.training.metrics import read_undamaged


@dataclass(frozen=True)
class RunRecord:
    """The files of one run, each read when it is asked for.

    Attributes:
        run: The folder.
        named: Where shards lie on an object store by the word of who asks; the run's own settings, which somebody else
            may have written, are not enough to connect to a store with this user's keys.
    """

    run: RunFolder
    named: str | None = None

    def command(self, job: str) -> str:
        """Returns the command that runs one job of this run, as it is typed in the working directory."""
        path = self.run.config
        return (
            f"python jobs/{job}.py --config {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
        )

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The effective configuration."""
        path = self.run.config
        try:
            return yaml_mapping(read_bytes(path)) if path.exists() else None
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{path} is not readable ({error}); expected a run's settings. Run jobs/run.py again with the same."
            ) from error

    @property
    def method(self) -> str:
        """What is trained, as far as the configuration says it."""
        return str((self.config or {}).get("method", ""))

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The table for programs."""
        return read_summary(self.run.summary) if self.run.summary.exists() else None

    @cached_property
    def rows(self) -> list[ResultRow]:
        """The result table, without rows before an evaluation."""
        return result_rows(self.summary) if self.summary else []

    @property
    def shards(self) -> Location:
        """Where the shards lie: in the run's folder unless `data.output` says otherwise."""
        return self.run.shards_at(self.config["data"]["output"] if self.config else None)

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the shards lie on an object store that nobody has named."""
        return "://" in str(self.shards) and self.shards != self.named

    @property
    def has_shards(self) -> bool:
        """Whether finished shards are there, and may be read."""
        return not self.is_out_of_reach and Folder(self.shards).exists(MANIFEST_NAME)

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of the shards; of the checkpoint where a run only evaluates another run's model."""
        if self.has_shards:
            return read_manifest(self.shards)
        return self.checkpoint.manifest if self.checkpoint else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What training reported."""
        return self._metrics[0]

    @property
    def damaged_metrics(self) -> list[int]:
        """The numbers of lines of that which cannot be read."""
        return self._metrics[1]

    @cached_property
    def _metrics(self) -> tuple[list[dict[str, Any]], list[int]]:
        return read_undamaged(self.run.metrics)

    @cached_property
    def checkpoint(self) -> LoadedCheckpoint | None:
        """The checkpoint that was evaluated, None where it is gone; before an evaluation, the one that would be."""
        configured = self.config["evaluation"]["checkpoint"] if self.config else None
        folders = list_checkpoints(self.run.checkpoints)
        if self._evaluated_model is None:
            chosen = configured or (best_checkpoint(self.run.checkpoints) if folders else None)
            return load_checkpoint(Path(chosen)) if chosen else None
        # Summaries from before it was recorded do not name it.
        named = [Path(name) for name in ((self.summary or {}).get("checkpoint"), configured) if name]
        there = [folder for folder in [*named, *folders] if (folder / INFO).is_file()]
        matching = (folder for folder in there if model_sums(folder) == self._evaluated_model)
        return next(map(load_checkpoint, matching), None)

    @property
    def checkpoint_is_gone(self) -> bool:
        """Whether a checkpoint was evaluated that is not there any more."""
        return self._evaluated_model is not None and self.checkpoint is None

    @cached_property
    def _evaluated_model(self) -> dict[str, str] | None:
        """The checksums of the model whose episodes are there (`model_sums`)."""
        claims = [claimed_identity(self.run.episodes(method)) or {} for method in self.episodes]
        return next((claim["model"] for claim in claims if "model" in claim), None)

    @cached_property
    def targets(self) -> dict[str, float]:
        """The return that each row is asked for, of those that are asked for one."""
        claims = {row.method: claimed_identity(self.run.episodes(row.method)) or {} for row in self.rows}
        acting = {name: claim.get("acting", {}) for name, claim in claims.items()}
        return {name: asked["target_return"] for name, asked in acting.items() if "target_return" in asked}

    @cached_property
    def episodes(self) -> dict[str, list[EpisodeResult]]:
        """The episodes behind the result table, failed ones too."""
        methods = self.summary["methods"] if self.summary else {}
        counts = {method: entry["episodes"] + entry["failed"] for method, entry in methods.items()}
        # The first that are there: one that ends its process is missing among them.
        return {method: EpisodeStore(self.run.episodes(method)).read()[:count] for method, count in counts.items()}
