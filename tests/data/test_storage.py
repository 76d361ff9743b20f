import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, urlsplit

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.resolve import resolve_sources
from pipeline.data.shards import read_table
from pipeline.data.staging import local_copy
from pipeline.data.storage import Folder, is_remote, join
from pipeline.data.table import ACTIONS, OBSERVATIONS, REWARDS, TOKENS, Split
from pipeline.errors import StorageError
from tests.data.episodes import random_episodes, write_minari
from tests.data.in_memory import write_shards


def test_what_was_written_is_read_and_listed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new" / "folder")
    assert folder.names() == []
    folder.write("b", b"two")
    folder.write("a", b"one")
    assert folder.names() == ["a", "b"]
    assert folder.read("a") == b"one"
    assert (folder.exists("a"), folder.exists("c")) == (True, False)
    folder.remove("a")
    assert folder.names() == ["b"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write("a", b"old")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="a could not be written"):
        folder.write("a", b"new")
    assert folder.read("a") == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing could not be read .*; expected a location that exists"):
        Folder(tmp_path).read("nothing")


def test_an_unknown_scheme_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="location is 'nowhere://bucket'; expected a path or a URI"):
        Folder("nowhere://bucket")


def test_a_local_location_is_its_own_copy(tmp_path: Path) -> None:
    assert local_copy(str(tmp_path)) == tmp_path
    assert local_copy(f"file://{tmp_path}") == tmp_path
    assert [is_remote(text) for text in ("s3://a/b", "/a/b", "file:///a")] == [True, False, False]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A URI of an empty bucket on a local stand-in for S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"scheme=http&endpoint_override={host}:{port}&allow_bucket_creation=true"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "anything")
        filesystem, path = fs.FileSystem.from_uri(f"s3://bucket?{options}")
        filesystem.create_dir(path)
        yield f"s3://bucket/folder?{options}"
    server.stop()


def test_shards_in_a_bucket_are_those_on_disk(bucket: str, tmp_path: Path) -> None:
    episodes, config = random_episodes([30] * 10), DataConfig(num_bins=8, steps_per_shard=100)
    here, there = tmp_path / "shards", join(bucket, "shards")
    assert write_shards(here, episodes, config) == write_shards(there, episodes, config)
    assert read_manifest(there) == read_manifest(here)
    for split in get_args(Split):
        for column in (TOKENS, OBSERVATIONS, ACTIONS, REWARDS):
            ours, theirs = (read_table(folder, split, [column])[column] for folder in (there, here))
            assert np.array_equal(ours, theirs)


def test_a_data_set_in_a_bucket_is_read_like_a_local_one(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("one-v0", "two-v0"):
        write_minari(tmp_path / "local", f"space/{name}", random_episodes([5, 6], source=f"space/{name}"))
    folder = Folder(join(bucket, "minari"))
    for path in (tmp_path / "local").rglob("*"):
        if path.is_file():
            folder.write(path.relative_to(tmp_path / "local").as_posix(), path.read_bytes())
    found = resolve_sources(
        DataConfig(sources=(SourceConfig(id="space/*-v0", root=folder.location),)), SourceConfig(id="unused")
    )
    assert [source.name for source, _ in found] == ["space/one-v0", "space/two-v0"]
    original = random_episodes([5, 6])
    for source, _ in found:
        for episode, expected in zip(source.read([0, 1]), original, strict=True):
            assert np.array_equal(episode.observations, expected.observations)


@pytest.mark.parametrize("key", ["x-v0/../../../escaped", "x-v0/data/../../../escaped", "x-v0/.."])
def test_a_key_that_leads_out_of_its_folder_is_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a" / "b"))
    options = parse_qs(urlsplit(bucket).query)
    store = boto3.client("s3", endpoint_url=f"http://{options['endpoint_override'][0]}", region_name="us-east-1")
    for name in ("x-v0/data/metadata.json", key):
        store.put_object(Bucket="bucket", Key=f"hostile/{name}", Body=b"x")
    with pytest.raises(StorageError, match=r"could not be copied to .* leads out of bucket/hostile/x-v0"):
        local_copy(join(bucket.replace("bucket/folder", "bucket/hostile"), "x-v0"))
    store.delete_object(Bucket="bucket", Key=f"hostile/{key}")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == []


def test_a_remote_data_set_that_was_replaced_is_copied_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Folder(bucket).write("replaced", b"old")
    location = join(bucket, "replaced")
    first = local_copy(location)
    assert first == local_copy(location)
    assert first.read_bytes() == b"old"
    Folder(bucket).write("replaced", b"newer")
    assert local_copy(location).read_bytes() == b"newer"


def test_a_folder_of_copies_that_belongs_to_somebody_else_is_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Folder(bucket).write("file", b"content")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"pipeline-datasets-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"file\?.* could not be copied .*belongs to somebody else"):
        local_copy(join(bucket, "file"))


def test_a_remote_data_set_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"could not be copied .*nothing does not exist.*expected a readable data"):
        local_copy(join(bucket, "nothing"))


def test_credentials_in_a_uri_are_not_shown() -> None:
    assert str(Folder("s3://key:secret@bucket/folder?region=eu-west-1")) == "s3://bucket/folder?region=eu-west-1"
