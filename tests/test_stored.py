"""What is read back and what is opened for writing, in folders that somebody else has prepared."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.configuration import claimed_identity, open_own
from pipeline.errors import ConfigError, PipelineError, RunFolderError, StorageError
from pipeline.evaluation.plan_trace import read_trace
from pipeline.evaluation.summary import read_summary
from pipeline.evaluation.sweep import read_table
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.options import parse
from pipeline.reporting.record import RunRecord
from pipeline.run_folder import RunFolder
from pipeline.stored import DEEPEST, json_mapping, sealed, unsealed, yaml_mapping, yaml_text
from pipeline.training.fence import Fence
from pipeline.training.storage import require_room

DEEP = "a: " + "[" * 200 + "]" * 200
ALIASES = "a: &a [1, 2]\nb: [*a, *a]"


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda folder: exclusive(folder, "training").__enter__(), ".lock"),
        (Fence, ".writer"),
        (lambda folder: require_room(folder, 1), ".writable"),
    ],
)
@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link", "pipe", "folder"])
def test_nothing_is_written_through_what_somebody_else_put_there(
    tmp_path: Path, write: Callable[[Path], object], name: str, kind: str
) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_text("of the user's")
    folder.mkdir()
    made = {
        "link": lambda path: path.symlink_to(precious),
        "hard link": lambda path: path.hardlink_to(precious),
        "dangling link": lambda path: path.symlink_to(tmp_path / "elsewhere"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
    }
    made[kind](folder / name)
    with pytest.raises(RunFolderError, match=rf"{name} is a link or no regular file; expected a file of its own"):
        write(folder)
    assert precious.read_text() == "of the user's"
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_of_its_own_is_made_and_kept(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with open_own(tmp_path / "file") as file:
            file.write(word)
    assert (tmp_path / "file").read_text() == "onetwo"


@pytest.mark.parametrize(
    "content", [ALIASES, DEEP, "[1, 2]", "", "1", "a: !!python/object:os.system x", "a: [", "\xff"]
)
def test_settings_that_a_run_did_not_write_are_an_error(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    for path in (tmp_path / "_identity.yaml", run.config):
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=r"_identity\.yaml is not readable \(.+\); expected what .* was made from"):
        claimed_identity(tmp_path)
    with pytest.raises(StorageError, match=r"config\.yaml is not readable \(.+\); expected a run's settings"):
        _ = RunRecord(run).config


@pytest.mark.parametrize("content", ["null", "[]", "3", "", "{", "[" * 100_000, '{"a":' * 100_000, "\xff"])
def test_tables_that_a_run_did_not_write_are_an_error(tmp_path: Path, content: str) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "summary.json": read_summary,
        "table.json": lambda path: read_table(path.parent),
        "plan.json": read_trace,
    }
    for name, read in readers.items():
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(StorageError, match=r"json is not readable \(.+\); expected"):
            read(tmp_path / name)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo, Path.mkdir])
def test_what_never_ends_is_not_read(tmp_path: Path, make: Callable[[Path], object]) -> None:
    for name, read in (
        ("_identity.yaml", lambda: claimed_identity(tmp_path)),
        ("s", lambda: read_summary(tmp_path / "s")),
    ):
        make(tmp_path / name)
        with pytest.raises(PipelineError, match=r"is not readable \(it is no regular file\)"):
            read()


def test_too_much_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "summary.json").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    with pytest.raises(StorageError, match=r"is not readable \(it has 1099511627776 bytes, more than 268435456\)"):
        read_summary(tmp_path / "summary.json")


def test_what_a_run_writes_is_read_again() -> None:
    shared = [1, {"x": None}]
    values = {"a": shared, "b": shared, "c": {"d": "1:30", "e": 1e-05}}
    assert yaml_mapping(yaml_text(values).encode()) == values
    assert json_mapping(b'{"a": [1, {"b": 2}]}') == {"a": [1, {"b": 2}]}
    deepest = "a: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)
    assert list(yaml_mapping(deepest.encode())) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("config: /etc/passwd\nseed: 1", r"x\.yaml has config; expected settings alone"),
        ("print_config: true\nseed: 1", r"x\.yaml has print_config; expected settings alone"),
        (ALIASES, r"x\.yaml, line 2 is not YAML: has an alias"),
        (DEEP, r"x\.yaml, line 1 is not YAML: is nested more than"),
    ],
)
def test_a_configuration_of_somebody_elses_reads_no_other_file_and_ends(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        parse(Experiment(), "", ["--config", str(tmp_path / "x.yaml")])
    if "alias" in message or "nested" in message:
        with pytest.raises(ConfigError, match=r"environment\.kwargs is .*; expected values by name"):
            parse(Experiment(), "", ["--environment.kwargs", "{" + content.replace("\n", ", ") + "}"])


def test_a_changed_number_is_no_other_result(tmp_path: Path) -> None:
    values = {"rows": [{"mean": 12.5, "n": 3}], "name": "x", "none": None}
    text = sealed(values)
    assert unsealed(text.encode()) == values
    for old, new in (("12.5", "13.5"), ('"x"', '"y"'), ("null", "true"), ('"n": 3', '"m": 3')):
        assert old in text
        with pytest.raises(ValueError, match="its checksum is not that of its content"):
            unsealed(text.replace(old, new).encode())
    with pytest.raises(ValueError, match="it has no checksum of itself"):
        unsealed(json.dumps(values).encode())
