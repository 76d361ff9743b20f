from pathlib import Path

import pytest
import yaml

from pipeline.command_line import parse_experiment as parse
from pipeline.configuration import Config
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig
from tests.conftest import REPOSITORY


def write(path: Path, **sections: object) -> str:
    path.write_text(yaml.safe_dump(sections))
    return str(path)


def test_no_arguments_give_the_defaults() -> None:
    assert parse("", []) == Experiment()


def test_later_files_win_over_earlier_ones_and_the_command_line_over_both(tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", planning={"beam_width": 1, "horizon": 1}, seed=1)
    second = write(tmp_path / "second.yaml", planning={"horizon": 2}, seed=2)
    experiment = parse("", ["--config", first, "--config", second, "--seed", "3"])
    assert (experiment.planning.beam_width, experiment.planning.horizon, experiment.seed) == (1, 2, 3)


@pytest.mark.parametrize("separate", [True, False])
def test_options_win_over_files_wherever_they_stand(tmp_path: Path, separate: bool) -> None:
    files = [write(tmp_path / f"{number}.yaml", name="of-the-file", seed=number) for number in (1, 2)]
    given = [["--config", file] if separate else [f"--config={file}"] for file in files]
    experiment = parse("", ["--name", "mine", *given[0], "--training.compile", *given[1], "--planning.horizon", "3"])
    assert (experiment.name, experiment.seed) == ("mine", 2)
    assert (experiment.training.compile, experiment.planning.horizon) == (True, 3)


def test_an_option_of_another_method_is_refused_and_a_file_may_have_it(tmp_path: Path) -> None:
    file = write(tmp_path / "both.yaml", decision_transformer={"layers": 1}, planning={"horizon": 2})
    cloning = ["--method", "behaviour_cloning", "--config", file]
    assert parse("", cloning).settings == BehaviourCloningConfig()
    for option, method in (("decision_transformer.layers", "decision_transformer"), ("planning.horizon", "traj")):
        message = rf"^--{option} is a setting of {method}.*, but method is behaviour_cloning; .* add --method {method}"
        with pytest.raises(ConfigError, match=message):
            parse("", [*cloning, f"--{option}=3"])
    assert parse("", [*cloning, "--behaviour_cloning.layers", "2"]).behaviour_cloning.layers == 2


def test_lists_and_null_are_written_as_in_yaml() -> None:
    experiment = parse("", ["--workers.number", "[1, 4]", "--planning.cdf_act", "null"])
    assert experiment.workers.number == (1, 4)
    assert experiment.planning.cdf_act is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], False), (["--training.compile"], True), (["--training.compile", "false"], False)],
)
def test_a_switch_may_stand_without_its_value(arguments: list[str], expected: bool) -> None:
    assert parse("", arguments).training.compile is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--planning.beam_width", "0"], r"planning\.beam_width is 0; expected it to be greater than or equal to 1\."),
        (["--planning.beam_width", "wide"], r"planning\.beam_width is 'wide'; expected a whole number\."),
        (
            ["--planning.beam", "3"],
            r"^planning\.beam is not a setting; expected one .* lists, perhaps planning\.beam_width( or [a-z._ ]+)?\.$",
        ),
        (["--runs", "s3://bucket/runs"], r"^runs is 's3://bucket/runs'; expected a folder: .* \(data\.output\)\.$"),
        (["--runs", "file:///tmp/runs"], r"^runs is 'file:///tmp/runs'; expected a folder"),
        (["--qqq", "3"], r"^qqq is not a setting; expected one of those that --help lists\.$"),
        (["--data.discretizer", "log"], r"data\.discretizer is 'log'; expected it to be 'quantile' or 'uniform'\."),
        (["--data.sources", "[{id: x"], r"^data\.sources is '\[\{id: x'; expected a list in square brackets\.$"),
        (["--data.sources", "[{root: x}]"], r"^data\.sources\.0\.id is missing; expected a value for it\.$"),
        (
            ["--workers.number", "x"],
            r"^workers\.number is 'x'; expected a whole number or a list in square brackets\.$",
        ),
        (["--evaluation.videos", "null"], r"^evaluation\.videos is null; expected a whole number\.$"),
        (
            ["--collect.behaviours", "[{weight: 0}]"],
            r"^collect\.behaviours\.0\.weight is 0; expected it to be .* than 0\.$",
        ),
        (["--collect.behaviours", "[]"], r"^collect\.behaviours is \[\]; expected a length of at least 1\.$"),
        (
            ["--sweep.space", "{planning.horizon: 4}"],
            r"^sweep\.space\.planning\.horizon is 4; expected a list in square",
        ),
        (
            ["--sweep.space", "{planning.horizon: {low: 4}}"],
            r"^sweep\.space\.planning\.horizon\.high is missing; expected",
        ),
        (
            ["--sweep.space", "{planning.horizon: {low: 4, high: 2}}"],
            r"^sweep\.space has a range from 4 to 2; expected low",
        ),
        (["--name", "a/b"], r"name is 'a/b'; expected it to match pattern"),
        (
            ["--trajectory_transformer.heads", "3"],
            r"^trajectory_transformer\.heads is 3; expected a divisor of trajectory_transformer\.width, 128\.$",
        ),
        (["--model.width", "3"], r"^model\.width is not a setting; expected one of those that --help lists"),
        (["--planning.context_transitions", "20"], r"planning\.context_transitions is 20; expected less than"),
        (
            ["--planning.discount", "0.9"],
            r"planning\.discount is 0\.9; expected data\.discount, 0\.99: a plan's rewards",
        ),
        (["--config", "nowhere.yaml"], r"--config is '.*nowhere\.yaml'; expected a YAML file that exists"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse("", arguments)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"planning": {"width": 2}}, r"^planning\.width is not a setting"),
        ({"plan": 2}, r"^plan is not a setting"),
        (
            {"collect": {"behaviours": [{"noise": -1}]}},
            r"collect\.behaviours\.0\.noise is -1; expected it to be greater",
        ),
    ],
)
def test_a_wrong_setting_in_a_file_is_told_the_same_way(
    tmp_path: Path, sections: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse("", ["--config", write(tmp_path / "a.yaml", **sections)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: x\nseed: 2\n", r"second\.yaml has seed twice, in lines 1 and 3; expected each setting once"),
        ("planning:\n  horizon: 1\n  horizon: 1\n", r"second\.yaml has horizon twice, in lines 2 and 3"),
        ("planning: {horizon: 1}\nseed: 1\nplanning: {plan_every: 1}\n", r"has planning twice, in lines 1 and 3"),
        ("seed: 1\nmodel: [1\nname: x\n", r"second\.yaml, line 3 is not YAML: .*; expected settings by section"),
        ("name: \x01", r"second\.yaml is not YAML \(.*special characters"),
        ("", r"second\.yaml holds no settings; expected some by section, such as `planning: \{horizon: 5\}`\."),
        ("[1, 2]", r"second\.yaml holds no settings"),
        ("planning:\n", r"second\.yaml holds no settings"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, text: str, message: str) -> None:
    first = write(tmp_path / "first.yaml", seed=0)
    (tmp_path / "second.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse("", ["--config", first, f"--config={tmp_path / 'second.yaml'}"])


def settings(config: type[Config], prefix: str = "") -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            found += settings(field.annotation, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", field.description))
    return found


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("Does it.", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, description in settings(Experiment):
        assert f"--{name} VALUE" in shown or f"--{name} [VALUE]" in shown
        assert description, f"{name} has no description"
        # The help wraps long words too, so only the description's first words are looked for.
        assert " ".join(description.split()[:3]) in shown
    assert "int >= 1; default 128" in shown


def test_print_config_prints_what_the_parser_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("", ["--planning.horizon", "7", "--print_config"])
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse("", ["--config", str(path)]) == parse("", ["--planning.horizon", "7"])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert isinstance(parse("", ["--config", str(path)]), Experiment)
