"""Text settings get the characters that were typed; the others what YAML 1.2 makes of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.command_line import parse_experiment as parse
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment
from pipeline.stored import yaml_text
from pipeline.typed_yaml import load, read, typed

LOOKS_LIKE_MORE = [
    "1:27",
    "1:30",
    "0x10",
    "010",
    "1_0",
    "1e3",
    "1.50",
    "on",
    "No",
    "true",
    "2026-11-28",
    "+5",
    ".5",
    "=",
]
"""What YAML 1.1, or YAML 1.2, takes for something else than a text."""


QUOTED = ["08", "1e3", "0o17", "0x1F", "null", "~", "true", "on", "1:30", "1_0", ".5", "2026-11-28", "a: b", ""]
"""Texts that need quotes in one version of YAML or the other."""


def from_file(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return parse("", ["--config", str(path)])


@pytest.mark.parametrize("words", LOOKS_LIKE_MORE)
def test_every_kind_of_text_setting_gets_the_characters_that_were_typed(tmp_path: Path, words: str) -> None:
    settings = {
        "data.observation_columns": f"[{words}]",
        "data.observation_keys": f"[a, {words}]",
        "data.sources": f"[{{id: {words}, root: {words}}}]",
        "data.discretizer_from": words,
        "collect.behaviours": f"[{{policy: {words}}}]",
        "environment.id": words,
        "environment.wrappers": f"[{{name: {words}}}]",
        "training.init_from": words,
    }
    options = parse("", [part for option, value in settings.items() for part in (f"--{option}", value)])
    sections: dict[str, list[str]] = {}
    for option, value in settings.items():
        section, _, setting = option.partition(".")
        sections.setdefault(section, [f"{section}:"]).append(f"  {setting}: {value}")
    file = from_file(tmp_path, "\n".join(line for lines in sections.values() for line in lines))
    for experiment in (options, file):
        assert experiment.data.observation_columns == (words,)
        assert experiment.data.observation_keys == ("a", words)
        assert (experiment.data.sources[0].id, experiment.data.sources[0].root) == (words, words)
        assert experiment.data.discretizer_from == words
        assert experiment.collect.behaviours[0].policy == words
        assert experiment.environment.id == words
        assert experiment.environment.wrappers[0].name == words
        assert experiment.training.init_from == words


def test_a_name_may_look_like_a_number() -> None:
    assert parse("", ["--name", "1e3"]).name == "1e3"
    assert parse("", ["--name=010"]).name == "010"


def test_numbers_and_truths_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "{a: on, b: 1:30, c: 1e-3, d: true, e: '5', f: 0x1F, g: [1, x], h: null, i: 0o17, j: -.5, k: 010, l: .inf}"
    expected = {
        "a": "on", "b": "1:30", "c": 0.001, "d": True, "e": "5", "f": 31, "g": [1, "x"], "h": None, "i": 15, "j": -0.5,
        "k": 10, "l": float("inf"),
    }  # fmt: skip
    assert parse("", ["--environment.kwargs", text]).environment.kwargs == expected
    assert from_file(tmp_path, f"environment:\n  kwargs: {text}").environment.kwargs == expected
    experiment = parse("", ["--training.learning_rate", "1e-3", "--training.epoch_windows", "1_000"])
    assert (experiment.training.learning_rate, experiment.training.epoch_windows) == (0.001, 1000)
    assert parse("", ["--data.download", "off"]).data.download is False


def test_null_and_quotes_mean_the_same_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    for words, expected in (("null", None), ("~", None), ("'null'", "null"), ('"1:30"', "1:30"), ("'~'", "~")):
        annotation = str | None
        assert typed(read(words, annotation), annotation) == expected
        assert typed(load(words), annotation) == expected
    assert parse("", ["--training.init_from", "null"]).training.init_from is None
    assert from_file(tmp_path, "training: {init_from: 'null'}").training.init_from == "null"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
@example("a: b")
@example("[x")
@example("a #b")
@example("- x")
@example("{a, b}")
@example("!!python/object:os.system x")
def test_any_text_comes_through(words: str) -> None:
    assert typed(load(yaml.safe_dump({"x": words})), dict[str, str]) == {"x": words}
    is_yaml = words in ("null", "Null", "NULL", "~") or words.strip()[:1] in ("'", '"')
    if not is_yaml:
        assert typed(read(words, str), str) == words


def test_what_is_printed_is_read_again_as_the_same_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("--name", "1e3", "--data.observation_columns", "[1:27, '5']", "--training.init_from", "1:30"),
        *("--environment.kwargs", f"{{a: '5', b: 1e-3, c: on, d: {QUOTED}}}", "--planning.horizon", "7"),
    ]
    with pytest.raises(SystemExit):
        parse("", [*arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert from_file(tmp_path, printed) == parse("", arguments)


def test_what_a_run_writes_down_is_read_again_as_the_same_settings(tmp_path: Path) -> None:
    experiment = Experiment.model_validate(
        {"environment": {"kwargs": {"texts": QUOTED}, "wrappers": [{"name": "x:Y", "kwargs": {"a": "08"}}]}}
    )
    assert from_file(tmp_path, yaml_text(experiment.model_dump(mode="json"))) == experiment


@pytest.mark.parametrize("text", ["name: {{ run_name }}", "? [a]\n: 1", "planning: {[b]: 1}"])
def test_a_key_that_is_no_text_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"settings\.yaml, line 1 is not YAML: has a key that is no text"):
        from_file(tmp_path, text)
    assert parse("", ["--training.init_from", "{{a}}"]).training.init_from == "{{a}}"


@pytest.mark.parametrize("lines", [["planning.horizon: 3", "planning: {horizon: 5}"], ["planning.horizon: 3"]])
def test_a_setting_cannot_stand_twice_by_another_spelling(tmp_path: Path, lines: list[str]) -> None:
    for order in (lines, lines[::-1]):
        with pytest.raises(ConfigError, match=r"has planning\.horizon; expected it in its section, `planning: \{hor"):
            from_file(tmp_path, "\n".join(order))


def test_a_tag_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"settings\.yaml.* is not YAML: could not determine a constructor"):
        from_file(tmp_path, "name: !!python/object:os.system x")


@pytest.mark.parametrize(
    ("option", "read_back"),
    [
        ("runs", lambda e: e.runs),
        ("data.output", lambda e: e.data.output),
        ("data.discretizer_from", lambda e: e.data.discretizer_from),
        ("training.init_from", lambda e: e.training.init_from),
        ("evaluation.checkpoint", lambda e: e.evaluation.checkpoint),
    ],
)
def test_paths_may_name_the_home_folder_and_variables(
    option: str, read_back: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/scratch/7")
    for words, expected in (
        ("~/x", "/home/somebody/x"),
        ("~", "/home/somebody"),
        ("${SCRATCH}/x", "/scratch/7/x"),
        ("$SCRATCH/x", "/scratch/7/x"),
        ("/a~b/x", "/a~b/x"),
    ):
        assert read_back(parse("", [f"--{option}='{words}'"])) == expected
    with pytest.raises(
        Exception, match=rf"^{option} is '\$\{{NOWHERE\}}/x'; expected the environment variable NOWHERE"
    ):
        parse("", [f"--{option}", "${NOWHERE}/x"])
    with pytest.raises(Exception, match=rf"^{option} is '~nobody-here/x'; expected ~ to be followed by / or by a user"):
        parse("", [f"--{option}", "~nobody-here/x"])


def test_paths_in_lists_may_too_and_uris_stay_uris(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("BUCKET", "b")
    arguments = ["--data.sources", "[{id: ~/x.hdf5}, {id: 'a/{b,c}-v0', root: 's3://${BUCKET}/d'}]"]
    sources = parse("", [*arguments, "--collect.behaviours", "[{policy: ~/p.npz}]"])
    assert [source.id for source in sources.data.sources] == ["/home/somebody/x.hdf5", "a/{b,c}-v0"]
    assert sources.data.sources[1].root == "s3://b/d"
    assert sources.collect.behaviours[0].policy == "/home/somebody/p.npz"
    with pytest.raises(Exception, match=r"^data\.sources\.0\.root is '\$NOWHERE'; expected the environment variable"):
        parse("", ["--data.sources", "[{id: x, root: $NOWHERE}]"])


@pytest.mark.parametrize(
    "uri", ["s3://KEY:SECRET@bucket/x", "s3://KEY:SECRET/2@bucket", "https://u:SECRET@host/x.hdf5"]
)
@pytest.mark.parametrize("from_variable", [False, True])
def test_a_uri_with_credentials_is_refused_and_not_repeated(
    uri: str, from_variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", uri)
    given = "${PLACE}" if from_variable else uri
    for arguments in (
        ["--data.output", given],
        ["--runs", given],
        ["--data.sources", f"[{{id: x, root: '{given}'}}]"],
        ["--training.init_from", given],
    ):
        with pytest.raises(
            Exception, match=r"is a URI with credentials; expected a URI without .*AWS_ACCESS_KEY_ID"
        ) as e:
            parse("", arguments)
        assert "SECRET@" not in str(e.value)
        assert "SECRET/2" not in str(e.value)
    for harmless in ("s3://bucket/a:b@c", "http://host:9000/a@b.hdf5", "hdfs://me@host/x"):
        assert parse("", ["--data.output", harmless]).data.output == harmless
