import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.config import DataConfig
from pipeline.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.data.shards import read_table
from pipeline.data.table import TOKENS
from pipeline.errors import ManifestError
from pipeline.stored import sealed, unsealed
from tests.data.episodes import random_episodes
from tests.data.in_memory import write_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", random_episodes([20] * 10), DataConfig(num_bins=7, steps_per_shard=60))
    return tmp_path / "shards"


def test_a_manifest_survives_its_json_float_for_float(shards: Path) -> None:
    manifest = read_manifest(shards)
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert np.array_equal(again.discretizer.edges, manifest.discretizer.edges)
    assert np.array_equal(again.discretizer.centers, manifest.discretizer.centers)


def test_totals_are_the_sums_of_the_shards(shards: Path) -> None:
    manifest = read_manifest(shards)
    assert [shard.steps for shard in manifest.shards] == [60, 60, 60, 20]
    assert manifest.totals.steps == 200
    assert manifest.totals.validation_steps == 20
    assert (manifest.totals.episodes, manifest.totals.validation_episodes) == (10, 1)


def test_shards_without_a_manifest_are_unfinished(shards: Path) -> None:
    (shards / MANIFEST_NAME).unlink()
    with pytest.raises(
        ManifestError, match=r"has no manifest.json; expected finished shards. jobs/prepare.py writes it"
    ):
        read_manifest(shards)


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "shard-00002.parquet").unlink()
    with pytest.raises(ManifestError, match=r"lacks \['shard-00002.parquet'\]; expected every shard"):
        read_manifest(shards)


def test_a_shard_whose_checksum_fails_is_refused(shards: Path) -> None:
    path = shards / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ManifestError, match=r"shard-00001.parquet has the sha256 \w{12}... instead of \w{12}...; expected"
    ):
        read_table(shards, "train", [TOKENS])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format_version: Input should be 2"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"edges": []}, "not a manifest of format version 2"),
    ],
)
def test_a_manifest_of_another_version_is_refused(shards: Path, change: dict[str, object], message: str) -> None:
    content = unsealed((shards / MANIFEST_NAME).read_bytes())
    (shards / MANIFEST_NAME).write_text(sealed({**content, **change}))
    with pytest.raises(ManifestError, match=message):
        read_manifest(shards)


def test_shards_of_the_first_version_are_to_be_prepared_again(shards: Path) -> None:
    """It had the rewards' treatment in two fields, and tokens alone."""
    content = unsealed((shards / MANIFEST_NAME).read_bytes())
    del content["columns"]
    first = {**content, **content.pop("treatment"), "format_version": 1}
    (shards / MANIFEST_NAME).write_text(json.dumps(first))
    with pytest.raises(ManifestError, match=r"an earlier version wrote it.*\); expected .* Run jobs/prepare"):
        read_manifest(shards)


def test_a_cut_off_manifest_is_refused(shards: Path) -> None:
    text = (shards / MANIFEST_NAME).read_text()
    (shards / MANIFEST_NAME).write_text(text[: len(text) // 2])
    with pytest.raises(ManifestError, match=r"manifest.json is not readable \(Unterminated .*\); expected what"):
        read_manifest(shards)
