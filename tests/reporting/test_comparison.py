import dataclasses
import re

import pytest

from pipeline.errors import RunFolderError
from pipeline.evaluation.scores import ScoreReference
from pipeline.evaluation.summary import read_summary
from pipeline.reporting.comparison import Cell, ComparedRun, Comparison, compare, read_run
from pipeline.reporting.markup import to_html, to_latex, to_markdown, write_comparison
from pipeline.reporting.table import NOTHING
from tests.reporting.made_run import MadeRun, result, write_evaluation, write_shards

REFERENCE = ScoreReference("D4RL", 0.0, 200.0)


def compared(name: str, returns: dict[str, list[float]], **changes: object) -> ComparedRun:
    episodes = {method: [result(method, i, r) for i, r in enumerate(values)] for method, values in returns.items()}
    run = ComparedRun(name, "Hopper-v5", "hopper/medium-v0", {"planning.horizon": 5}, None, episodes)
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
        "Random policy (planning.horizon 15)",
        "Random policy (planning.horizon 5)",
        "Trajectory Transformer (planning.horizon 15)",
        "Trajectory Transformer (planning.horizon 5)",
    )
    assert table.rows[0].cells["Trajectory Transformer (planning.horizon 15)"].mean == 6.0


def test_a_row_with_one_reference_is_in_scores() -> None:
    (row,) = compare([compared("a", {"random": [50.0, 150.0]}, reference=REFERENCE)]).rows
    assert row.unit == "score (D4RL)"
    assert row.cells["Random policy"].mean == 50.0


def test_a_row_of_different_references_is_in_returns() -> None:
    other = ScoreReference("Minari metadata", 0.0, 100.0)
    runs = [compared(name, {"random": [50.0]}, reference=r) for name, r in (("a", REFERENCE), ("b", other))]
    assert compare(runs).rows[0].unit == "return"


def test_the_best_are_those_within_the_interval_of_the_highest_mean() -> None:
    runs = [
        compared("a", {"random": [10.0] * 4, "behaviour_cloning": [80.0] * 4, "trajectory_transformer": [70.0, 110.0]})
    ]
    cells = compare(runs).rows[0].cells
    assert {column: cell.best for column, cell in cells.items()} == {
        "Random policy": False,
        "Behaviour cloning": True,
        "Trajectory Transformer": True,
    }


def test_the_mean_over_data_sets_needs_scores_in_every_row() -> None:
    scored = [
        compared("a", {"random": [20.0], "trajectory_transformer": [180.0]}, reference=REFERENCE),
        compared("b", {"random": [40.0]}, reference=REFERENCE, data_set="hopper/expert-v0"),
    ]
    assert compare(scored).means == {"Random policy": 15.0}
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
    assert cells[0] == ["Environment", "Data set", "Unit", "Runs", "Random policy", "Trajectory Transformer"]
    assert cells[2] == ["Hopper-v5", r"50%_expert\|v0", "score (D4RL)", "1", NOTHING, "**50.0**"]
    assert cells[3] == ["Hopper-v5", "hopper/medium-v0", "score (D4RL)", "1", "10.0", "**90.0**"]
    assert cells[4] == ["mean", "", "score", "", NOTHING, "70.0"]


def test_latex_is_escaped_and_complete(table: Comparison) -> None:
    lines = to_latex(table).splitlines()
    assert lines[1] == r"\begin{tabular}{lllrrr}"
    assert r"Hopper-v5 & 50\%\_expert|v0 & score (D4RL) & 1 & -- & \textbf{50.0} \\" in lines
    assert lines[-1] == r"\end{tabular}"
    assert {line.count(" & ") for line in lines if line.endswith(r"\\")} == {5}


def test_html_has_the_best_in_bold(table: Comparison) -> None:
    assert '<td class="strong">90.0</td>' in to_html(table)


def test_an_interval_stands_behind_its_mean() -> None:
    run = compared("a", {"random": [1.0, 1.0]})
    assert compare([run]).rows[0].cells["Random policy"] == Cell(1.0, (1.0, 1.0), best=True)
    assert "1.0 [1.0, 1.0]" in to_markdown(compare([run]))


def test_one_run_alone_has_the_numbers_of_its_own_table(made_run: MadeRun) -> None:
    entry = read_summary(made_run.folder.summary)["methods"]["trajectory_transformer"]
    cell = compare([read_run(made_run.folder)]).rows[0].cells["Trajectory Transformer"]
    assert (cell.mean, list(cell.interval or ())) == (entry["mean_return"], entry["interval"])


def test_an_evaluated_run_is_read_from_its_folder(made_run: MadeRun) -> None:
    run = read_run(made_run.folder)
    assert (run.name, run.environment, run.data_set) == ("made", "Pendulum-v1", "own/pendulum/mixed-v0")
    assert {method: len(episodes) for method, episodes in run.episodes.items()} == {
        "random": 20,
        "behaviour_cloning": 20,
        "trajectory_transformer": 20,
    }
    assert run.settings["training.loss_weights.action"] == 5.0
    assert "training.num_workers" not in run.settings, "it changes how training runs, not what it gives"


def test_the_reference_of_the_summary_is_read(empty_run: MadeRun) -> None:
    write_evaluation(empty_run.folder, write_shards(empty_run.folder), {"random": 100.0}, REFERENCE)
    assert read_run(empty_run.folder).reference == REFERENCE


def test_the_comparison_is_written_in_three_forms(made_run: MadeRun) -> None:
    stem = made_run.folder.root.parent / "comparison"
    markdown = write_comparison([made_run.folder.root], stem)
    assert stem.with_suffix(".md").read_text() == markdown
    assert r"\bottomrule" in stem.with_suffix(".tex").read_text()
    assert "<table class=" in stem.with_suffix(".html").read_text()


def test_a_run_without_an_evaluation_cannot_be_compared(empty_run: MadeRun) -> None:
    with pytest.raises(RunFolderError, match=r"no summary\.json; expected an evaluated run"):
        read_run(empty_run.folder)


def test_a_run_with_an_unknown_setting_cannot_be_compared(made_run: MadeRun) -> None:
    path = made_run.folder.config
    path.write_text(path.read_text().replace("horizon: 3", "horizont: 3"))
    with pytest.raises(RunFolderError, match="not a configuration of this version"):
        read_run(made_run.folder)
