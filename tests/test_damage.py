"""Every kind of file that is read, cut off and with bits flipped: the right content, or one sentence of an error."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.collection.policy_file import FilePolicy
from pipeline.configuration import claim_folder, claimed_identity
from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.manifest import read_manifest
from pipeline.data.minari_source import MinariSource
from pipeline.data.shards import read_table
from pipeline.data.table import OBSERVATIONS, TOKENS
from pipeline.errors import PipelineError
from pipeline.evaluation.plan_trace import read_trace
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.summary import read_summary, write_summary
from pipeline.evaluation.sweep import read_table as read_sweep
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.reporting.record import RunRecord
from pipeline.stored import sealed
from pipeline.training.checkpoint import best_checkpoint
from pipeline.training.metrics import read_metrics
from tests.collection.test_policy_file import write_policy
from tests.data.episodes import random_episodes, write_minari
from tests.data.test_d4rl_source import write_d4rl
from tests.reporting.made_run import make_run, write_sweep

FLIPS = 25


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and whether it has a checksum, so that no change may pass."""

    path: Path
    read: Callable[[], Any]
    checked: bool = True


def run_cases(root: Path) -> dict[str, Case]:
    run = make_run(root)
    write_sweep(run.folder)
    folder, checkpoint = run.folder, best_checkpoint(run.folder.checkpoints)
    trace = root / "_plan.json"
    trace.write_text(sealed({"missing": "no plan"}))
    write_summary(root / "summary.json", {"methods": {"random": {"mean": 1.25}}})
    claim_folder(root / "claimed", {"seed": 3, "data": {"num_bins": 16}}, "shards")
    shards, episodes = folder.shards, folder.episodes("random")
    shard = next(shards.glob("*.parquet"))

    def model() -> Any:
        loaded = load_checkpoint(checkpoint)
        weights = {name: tensor.numpy().tobytes() for name, tensor in loaded.model.state_dict().items()}
        return loaded.info, loaded.manifest, loaded.config, loaded.settings, weights

    def tables() -> Any:
        read = read_table(str(shards), "train", [TOKENS, OBSERVATIONS])
        return {name: read[name].tobytes() for name in (TOKENS, OBSERVATIONS)}

    return {
        "summary": Case(root / "summary.json", partial(read_summary, root / "summary.json")),
        "sweep's table": Case(folder.sweep / "table.json", partial(read_sweep, folder.sweep)),
        "plan": Case(trace, partial(read_trace, trace)),
        "identity": Case(root / "claimed/_identity.yaml", partial(claimed_identity, root / "claimed"), checked=False),
        "run's settings": Case(folder.config, lambda: RunRecord(folder).config, checked=False),
        "metrics": Case(folder.metrics, partial(read_metrics, folder.metrics), checked=False),
        "manifest": Case(shards / "manifest.json", partial(read_manifest, str(shards))),
        "shard": Case(shard, tables),
        "episode": Case(next(episodes.glob("*.parquet")), lambda: repr(EpisodeStore(episodes).read())),
        **{
            f"checkpoint's {path.name}": Case(path, model)
            for path in checkpoint.iterdir()
            if path.name != "training.pt"
        },
    }


def data_cases(root: Path) -> dict[str, Case]:
    minari = write_minari(root, "test/data-v0", random_episodes([5, 6], source="test/data-v0"))
    d4rl = Path(write_d4rl(root / "x.hdf5"))
    policy = write_policy(root / "policy.npz")

    def episodes(source: Callable[[], Any]) -> Any:
        opened = source()
        return [episode.observations.tobytes() for episode in opened.read(opened.listing().ids.tolist())]

    read_minari = partial(episodes, partial(MinariSource.open, "test/data-v0", str(minari)))
    return {
        "Minari's metadata": Case(minari / "data" / "metadata.json", read_minari, checked=False),
        "Minari's HDF5": Case(minari / "data" / "main_data.hdf5", read_minari, checked=False),
        "D4RL": Case(d4rl, partial(episodes, partial(D4rlSource.open, str(d4rl))), checked=False),
        "policy": Case(policy, lambda: FilePolicy(policy).act(np.array([3.0, 4.0]), 0, None).tolist()),
    }


def damaged(content: bytes, generator: np.random.Generator) -> list[bytes]:
    """Returns the content cut off at every tenth, and with single bits flipped."""
    cut = [content[: len(content) * tenth // 10] for tenth in range(10)]
    flipped = []
    for place in generator.integers(8 * len(content), size=FLIPS).tolist():
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        flipped.append(bytes(changed))
    return [*cut, *flipped]


@pytest.mark.parametrize("cases", [run_cases, data_cases])
def test_a_damaged_file_is_told_or_harmless(tmp_path: Path, cases: Callable[[Path], dict[str, Case]]) -> None:
    wrong = []
    for name, case in cases(tmp_path).items():
        content, expected = case.path.read_bytes(), case.read()
        generator = np.random.default_rng(len(content))
        for number, bad in enumerate(damaged(content, generator)):
            case.path.write_bytes(bad)
            try:
                found = case.read()
            except PipelineError as error:
                if "\n" in str(error).strip():
                    wrong.append(f"{name} {number}: several lines: {error}")
            except Exception as error:
                wrong.append(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}")
            else:
                if case.checked and found != expected:
                    wrong.append(f"{name} {number}: another result")
        case.path.write_bytes(content)
        assert case.read() == expected, name
    assert not wrong, "\n".join(wrong)
