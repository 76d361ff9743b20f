import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.errors import RunFolderError
from pipeline.evaluation.scores import ScoreReference
from pipeline.evaluation.summary import read_summary
from pipeline.records import EpisodeResult
from pipeline.reporting.comparison import Cell, ComparedRun, Comparison, compare, read_run
from pipeline.reporting.markup import to_html, to_latex, to_markdown, write_comparison
from pipeline.reporting.table import NOTHING
from tests.reporting.made_run import SOURCE, MadeRun, result, write_evaluation, write_shards

REFERENCE = ScoreReference("D4RL", 0.0, 200.0)


def compared(name: str, returns: dict[str, list[float]], **changes: object) -> ComparedRun:
    episodes = {method: [result(method, i, r) for i, r in enumerate(values)] for method, values in returns.items()}
    # The letters of a run's name stand for its seed, so that runs of different names are different trainings.
    seed = int(name, base=36)
    run = ComparedRun(
        name=name,
        environment="Hopper-v5",
        data_set="hopper/medium-v0",
        method="trajectory_transformer",
        settings={"planning.horizon": 5},
        seed=seed,
        reference=None,
        data_return=0.0,
        episodes=episodes,
    )
    return dataclasses.replace(run, **changes)


def test_trainings_of_one_setting_are_averaged_each_weighing_the_same() -> None:
    table = compare([compared("a", {"random": [1.0, 3.0]}), compared("b", {"random": [10.0, 10.0, 10.0, 10.0]})])
    (row,) = table.rows
    assert row.trainings == 2
    assert row.unit == "return"
    cell = row.cells["Random policy"]
    assert cell.mean == 6.0
    assert cell.interval is not None
    assert cell.interval[0] < 3 < 9 < cell.interval[1], "one training's luck may be all of it"


def test_runs_with_other_settings_get_columns_named_by_the_difference() -> None:
    runs = [
        compared("a", {"random": [1.0], "trajectory_transformer": [5.0]}),
        compared("b", {"random": [1.0], "trajectory_transformer": [6.0]}, settings={"planning.horizon": 15}),
    ]
    table = compare(runs)
    assert table.columns == (
        "Behaviour data",
        "Random policy",
        "Trajectory Transformer (planning.horizon 15)",
        "Trajectory Transformer (planning.horizon 5)",
    )
    assert table.rows[0].cells["Trajectory Transformer (planning.horizon 15)"].mean == 6.0


def test_runs_of_different_methods_get_a_column_for_each_row_without_words_on_their_settings() -> None:
    other = {"method": "crystal_ball", "settings": {"crystal_ball.width": 32}}
    table = compare(
        [
            compared("a", {"random": [1.0], "trajectory_transformer": [5.0]}),
            compared("b", {"random": [1.0], "crystal_ball@9": [4.0]}, **other),
            compared("c", {"crystal_ball@9": [6.0], "crystal_ball@90": [7.0]}, **other),
        ]
    )
    named = {column: cell.mean for column, cell in table.rows[0].cells.items()}
    assert set(table.columns) == set(named)
    assert table.columns[:3] == ("Behaviour data", "Random policy", "Trajectory Transformer")
    assert named == {
        "Behaviour data": 0.0,
        "Random policy": 1.0,
        "Trajectory Transformer": 5.0,
        "Crystal ball for 9": 5.0,
        "Crystal ball for 90": 7.0,
    }


def test_runs_of_one_method_differ_by_their_own_settings_whatever_another_method_s_are() -> None:
    runs = [
        compared("a", {"trajectory_transformer": [5.0]}),
        compared("b", {"trajectory_transformer": [6.0]}, settings={"planning.horizon": 15}),
        compared("c", {"imitated": [7.0]}, method="imitated", settings={"imitated.width": 1}),
    ]
    assert compare(runs).columns == (
        "Behaviour data",
        "Trajectory Transformer (planning.horizon 15)",
        "Trajectory Transformer (planning.horizon 5)",
        "Imitated",
    )


def data_cells(*runs: ComparedRun) -> dict[str, Cell]:
    """The cells of the behaviour data in the only row of a table."""
    (row,) = compare(runs).rows
    return {column: cell for column, cell in row.cells.items() if column.startswith("Behaviour data")}


def test_the_behaviour_data_stands_first_without_an_interval_in_the_row_s_unit() -> None:
    run = compared("a", {"random": [50.0]}, data_return=30.0, reference=REFERENCE)
    assert compare([run]).columns == ("Behaviour data", "Random policy")
    assert data_cells(run) == {"Behaviour data": Cell(15.0, None)}
    lines = to_markdown(compare([run])).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[-3:-1]] == ["15.0", "**25.0**"]


def test_data_that_no_method_is_better_than_is_the_best() -> None:
    cells = compare([compared("a", {"random": [50.0, 60.0]}, data_return=100.0)]).rows[0].cells
    assert {column: cell.best for column, cell in cells.items()} == {"Behaviour data": True, "Random policy": False}


def test_data_of_one_seed_counts_once_and_of_several_is_averaged() -> None:
    """Runs of two methods share what was collected with their seed."""
    runs = [
        compared("a", {"random": [1.0]}, seed=0, data_return=10.0),
        compared("b", {"imitated": [1.0]}, seed=0, data_return=10.0, method="imitated"),
        compared("c", {"random": [1.0]}, seed=1, data_return=20.0),
    ]
    assert data_cells(*runs) == {"Behaviour data": Cell(15.0, None, best=True)}


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ([{"planning.horizon": 5}, {"data.num_bins": 9, "data.delay_rewards": True}], ["Behaviour data"]),
        (
            [{"collect.steps": 10}, {"collect.steps": 20}],
            ["Behaviour data (collect.steps 10)", "Behaviour data (collect.steps 20)"],
        ),
        (
            [{"data.content": "one"}, {"data.content": "two"}],
            ["Behaviour data (data.content one)", "Behaviour data (data.content two)"],
        ),
        ([{"environment.max_episode_steps": steps, "data.content": "one"} for steps in (5, 9)], ["Behaviour data"]),
        (
            [{"environment.max_episode_steps": steps} for steps in (5, 9)],
            [f"Behaviour data (environment.max_episode_steps {steps})" for steps in (5, 9)],
        ),
    ],
    ids=[
        "prepared otherwise",
        "collected otherwise",
        "other content",
        "given, played elsewhere",
        "collected elsewhere",
    ],
)
def test_other_data_gets_a_column_of_its_own(settings: list[dict[str, object]], columns: list[str]) -> None:
    runs = [
        compared(name, {"random": [1.0]}, seed=0, settings=values, data_return=data_return)
        for name, values, data_return in zip("ab", settings, (0.0, float(len(columns) - 1)), strict=True)
    ]
    assert {column: cell.mean for column, cell in data_cells(*runs).items()} == dict(
        zip(columns, (0.0, 1.0), strict=False)
    )


def read_again(episodes: list[EpisodeResult], **changes: object) -> list[EpisodeResult]:
    """The same episodes run once more: they took another time, and NaN is no NaN that was read before."""
    times = {"decision_ms_median": 0.3, "host": "two", "predicted_return": float("nan")}
    return [dataclasses.replace(episode, **times, **changes) for episode in episodes]


def test_the_random_policy_s_episodes_of_one_seed_are_counted_once() -> None:
    first = compared("a", {"random": [1.0, 3.0, 4.0, 12.0]}, seed=0)
    alone = compare([first]).rows[0].cells["Random policy"]
    again = dataclasses.replace(
        first, name="b", method="imitated", episodes={"random": read_again(first.episodes["random"])}
    )
    assert compare([first, again]).rows[0].cells["Random policy"] == alone
    more = dataclasses.replace(again, episodes=compared("c", {"random": [1.0, 3.0, 4.0, 12.0, 10.0]}).episodes)
    for runs in ([first, more], [more, first]):
        assert compare(runs).rows[0].cells["Random policy"].mean == 6.0, "the run with more episodes has them all"
    elsewhere = dataclasses.replace(again, seed=1, episodes=compared("c", {"random": [7.0, 7.0]}).episodes)
    assert compare([first, elsewhere]).rows[0].cells["Random policy"].mean == 6.0, "another seed is another training"


def test_the_random_policy_in_other_environments_gets_columns_of_its_own() -> None:
    limits = [{"environment.max_episode_steps": steps, "planning.horizon": steps} for steps in (50, 100)]
    runs = [compared(name, {"random": [1.0]}, settings=limit) for name, limit in zip("ab", limits, strict=True)]
    assert compare(runs).columns[2:] == (
        "Random policy (environment.max_episode_steps 100)",
        "Random policy (environment.max_episode_steps 50)",
    )


def test_one_training_is_not_counted_twice() -> None:
    again = compared("b", {"random": [1.0]}, seed=3)
    with pytest.raises(
        RunFolderError, match=r"a and b have the same settings and the same seed, 3; expected runs that"
    ):
        compare([compared("a", {"random": [1.0]}, seed=3), again])
    other = dataclasses.replace(again, settings={"planning.horizon": 15})
    assert compare([compared("a", {"random": [1.0]}, seed=3), other]).rows[0].trainings == 2


def test_a_row_with_one_reference_is_in_scores() -> None:
    (row,) = compare([compared("a", {"random": [50.0, 150.0]}, reference=REFERENCE)]).rows
    assert row.unit == "score (D4RL)"
    assert row.cells["Random policy"].mean == 50.0


def test_a_row_of_different_references_is_in_returns() -> None:
    other = ScoreReference("Minari metadata", 0.0, 100.0)
    runs = [compared(name, {"random": [50.0]}, reference=r) for name, r in (("a", REFERENCE), ("b", other))]
    assert compare(runs).rows[0].unit == "return"


def test_the_best_are_those_within_the_interval_of_the_highest_mean() -> None:
    runs = [compared("a", {"random": [10.0] * 4, "one_step": [80.0] * 4, "trajectory_transformer": [70.0, 110.0]})]
    cells = compare(runs).rows[0].cells
    assert {column: cell.best for column, cell in cells.items()} == {
        "Behaviour data": False,
        "Random policy": False,
        "Trajectory Transformer, one step": True,
        "Trajectory Transformer": True,
    }


def test_the_mean_over_data_sets_needs_scores_in_every_row() -> None:
    scored = [
        compared("a", {"random": [20.0], "trajectory_transformer": [180.0]}, reference=REFERENCE),
        compared("b", {"random": [40.0]}, reference=REFERENCE, data_set="hopper/expert-v0"),
    ]
    assert compare(scored).means == {"Behaviour data": 0.0, "Random policy": 15.0}
    assert compare([scored[0], dataclasses.replace(scored[1], reference=None)]).means == {}
    assert compare(scored[:1]).means == {}


@pytest.fixture
def table() -> Comparison:
    runs = [
        compared("a", {"random": [20.0], "trajectory_transformer": [180.0]}, reference=REFERENCE),
        compared("b", {"trajectory_transformer": [100.0]}, reference=REFERENCE, data_set="50%_expert|v0"),
    ]
    return compare(runs)


def test_markdown_has_one_line_for_each_data_set_and_the_best_in_bold(table: Comparison) -> None:
    lines = to_markdown(table).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:5]]
    assert cells[0][:4] == ["Environment", "Data set", "Unit", "Runs"]
    assert cells[0][4:] == ["Behaviour data", "Random policy", "Trajectory Transformer"]
    assert cells[2] == ["Hopper-v5", r"50%\_expert\|v0", "score (D4RL)", "1", "0.0", NOTHING, "**50.0**"]
    assert cells[3] == ["Hopper-v5", "hopper/medium-v0", "score (D4RL)", "1", "0.0", "10.0", "**90.0**"]
    assert cells[4] == ["mean", "", "score", "", "0.0", NOTHING, "70.0"]


HOSTILE = "<script>x</script> [y](http://z) `a` *b* \\ c\nd | e & f !g __h__ ~~i~~"


def test_names_of_other_people_are_shown_as_they_are_in_markdown_and_latex() -> None:
    table = compare([compared("a", {"random": [1.0, 2.0]}, data_set=HOSTILE)])
    lines = to_markdown(table).splitlines()
    assert len(lines) == len(to_markdown(compare([compared("a", {"random": [1.0, 2.0]})])).splitlines())
    assert r"\<script\>x\</script\> \[y\](http\://z) \`a\` \*b\* \\ c d \| e \& f \!g \_\_h\_\_ \~\~i\~\~" in lines[2]
    assert r"\textbackslash{} c d | e \& f" in to_latex(table)
    assert "<script>" not in to_html(table)


def test_latex_is_escaped_and_complete(table: Comparison) -> None:
    lines = to_latex(table).splitlines()
    assert lines[1] == r"\begin{tabular}{lllrrrr}"
    assert r"Hopper-v5 & 50\%\_expert|v0 & score (D4RL) & 1 & 0.0 & -- & \textbf{50.0} \\" in lines
    assert lines[-1] == r"\end{tabular}"
    assert {line.count(" & ") for line in lines if line.endswith(r"\\")} == {6}


def test_html_has_the_best_in_bold(table: Comparison) -> None:
    assert '<td class="strong">90.0</td>' in to_html(table)


def test_an_interval_stands_behind_its_mean() -> None:
    run = compared("a", {"random": [1.0, 1.0]})
    assert compare([run]).rows[0].cells["Random policy"] == Cell(1.0, (1.0, 1.0), best=True)
    assert "1.0 [1.0, 1.0]" in to_markdown(compare([run]))


def test_one_run_alone_has_the_numbers_of_its_own_table(made_run: MadeRun) -> None:
    summary = read_summary(made_run.folder.summary)
    entry, cells = summary["methods"]["trajectory_transformer"], compare([read_run(made_run.folder)]).rows[0].cells
    cell = cells["Trajectory Transformer"]
    assert (cell.mean, list(cell.interval or ())) == (entry["mean_return"], entry["interval"])
    assert cells["Behaviour data"].mean == summary["data"]["mean_return"] == 36.5


def test_an_evaluated_run_is_read_from_its_folder(made_run: MadeRun) -> None:
    run = read_run(made_run.folder)
    assert (run.name, run.environment, run.data_set) == ("made", "Pendulum-v1", "own/pendulum/mixed-v0")
    assert {method: len(episodes) for method, episodes in run.episodes.items()} == {
        "random": 20,
        "one_step": 20,
        "trajectory_transformer": 20,
    }
    assert run.method == "trajectory_transformer"
    assert run.settings["trajectory_transformer.loss_weights.action"] == 5.0
    assert "training.batch_size" in run.settings
    for name in ("training.keep_best", "workers.number"):
        assert name not in run.settings, "it changes how training runs, not what it gives"


def settings_with(made_run: MadeRun, **sections: dict[str, object]) -> dict[str, Any]:
    """The settings of a run whose configuration has these changes."""
    config = yaml.safe_load(made_run.folder.config.read_text())
    for section, changes in sections.items():
        config[section].update(changes)
    made_run.folder.config.write_text(yaml.safe_dump(config))
    return read_run(made_run.folder).settings


def test_collected_data_of_another_recipe_is_another_setting(made_run: MadeRun) -> None:
    before = read_run(made_run.folder).settings
    after = settings_with(made_run, collect={"behaviours": [{"policy": "random", "random_share": 0.5}]})
    assert {name for name in after if after[name] != before[name]} == {"collect.behaviours.0.random_share"}


def test_where_data_lies_is_no_setting(made_run: MadeRun, tmp_path: Path) -> None:
    made_run.folder.shards.rename(tmp_path / "elsewhere")
    sources = [{"id": SOURCE, "root": "/one"}]
    here = settings_with(made_run, data={"sources": sources, "output": str(tmp_path / "elsewhere")})
    (tmp_path / "elsewhere").rename(made_run.folder.shards)
    there = settings_with(made_run, data={"sources": [{"id": SOURCE, "root": "/other"}], "output": None})
    assert here == there
    assert "collect.steps" not in there, "nothing was collected"


@pytest.mark.parametrize("change", ["share", "content"])
def test_other_episodes_under_the_same_name_are_another_setting(made_run: MadeRun, change: str) -> None:
    before = settings_with(made_run, data={"sources": [{"id": SOURCE}]})
    if change == "content":
        manifest = read_manifest(str(made_run.folder.shards))
        (source,) = manifest.sources
        other = source.model_copy(update={"fingerprint": "f" * 64})
        write_manifest(str(made_run.folder.shards), manifest.model_copy(update={"sources": (other,)}))
    share = 0.5 if change == "share" else 1.0
    after = settings_with(made_run, data={"sources": [{"id": SOURCE, "share": share}]})
    assert len({name for name in after if after[name] != before[name]}) == 1


def test_the_reference_of_the_summary_is_read(empty_run: MadeRun) -> None:
    write_evaluation(empty_run.folder, write_shards(empty_run.folder), {"random": 100.0}, REFERENCE)
    assert read_run(empty_run.folder).reference == REFERENCE


def test_the_comparison_is_written_in_three_forms(made_run: MadeRun) -> None:
    stem = made_run.folder.root.parent / "comparison"
    markdown = write_comparison([made_run.folder.root], stem)
    assert stem.with_suffix(".md").read_text() == markdown
    assert r"\bottomrule" in stem.with_suffix(".tex").read_text()
    assert "<table class=" in stem.with_suffix(".html").read_text()


def test_a_run_that_is_named_twice_is_refused(made_run: MadeRun) -> None:
    folder = made_run.folder.root
    with pytest.raises(RunFolderError, match=r"--compare names .*made 2 times; expected every run once"):
        write_comparison([folder, folder.parent / "." / "made"], folder.parent / "comparison")


def test_a_run_without_an_evaluation_cannot_be_compared(empty_run: MadeRun) -> None:
    with pytest.raises(RunFolderError, match=r"no summary\.json; expected an evaluated run"):
        read_run(empty_run.folder)


def test_a_run_with_an_unknown_setting_cannot_be_compared(made_run: MadeRun) -> None:
    path = made_run.folder.config
    path.write_text(path.read_text().replace("horizon: 3", "horizont: 3"))
    with pytest.raises(RunFolderError, match=r"of this version; .*: planning\.horizont is not a setting"):
        read_run(made_run.folder)
