import html.parser
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.data.manifest import read_manifest
from pipeline.errors import ManifestError, RunFolderError, StorageError
from pipeline.evaluation.plan_trace import NAME, write_trace
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.sweep import write_table
from pipeline.reporting.comparison import read_run
from pipeline.reporting.record import RunRecord
from pipeline.reporting.report import write_report
from pipeline.reporting.sections_model import plan_section
from pipeline.run_folder import RunFolder
from pipeline.stored import sealed, unsealed
from pipeline.training.checkpoint import INFO, best_checkpoint
from pipeline.training.metrics import read_metrics
from tests.reporting.browser import open_page
from tests.reporting.made_run import (
    METHODS,
    SOURCE,
    TRAINED_ON,
    MadeRun,
    add_checkpoint,
    result,
    write_evaluation,
    write_shards,
)


class Page(html.parser.HTMLParser):
    """Headings, ids, and everything that a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.ids, self.fetched, self.labels = "", [], [], []
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if "id" in named:
            self.ids.append(named["id"])
        links = [named.get(name) for name in ("src", "xlink:href", "data")] + [
            named.get("href") if tag != "a" else None
        ]
        self.fetched += [link for link in links if link and not link.startswith(("data:", "#"))]
        if named.get("role") == "img":
            self.labels.append(named["aria-label"])

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_of_a_finished_run_has_every_figure(full_report: Path) -> None:
    page = Page(full_report)
    assert [label.split(".")[0].split(":")[0] for label in page.labels] == [
        "Histogram of episode returns for each source",
        "Training and validation loss over the tokens seen",
        "One panel each, training and validation",
        "Return of every evaluation episode",
        "Median decision time",
        "Predicted against achieved discounted return of Random policy, Trajectory Transformer, one step, "
        "Trajectory Transformer",
        "Predicted and actual observations and rewards of one plan of 3 steps",
        "Attention weights of layers 1 and 3, each of 2 heads, on one held-out window",
        "Mean return over planning",
        "Milliseconds per decision over planning",
        "6 of 9 settings are on the Pareto front of return against decision time",
    ]


def test_a_training_whose_only_measure_is_the_loss_draws_no_panels(made_run: MadeRun) -> None:
    lines = [json.loads(line) for line in made_run.folder.metrics.read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if "loss_" not in name} for line in lines]
    made_run.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in kept))
    page = Page(write_report(made_run.folder))
    assert any(label.startswith("Training and validation loss") for label in page.labels)
    assert not any("One panel each" in label for label in page.labels)


def test_the_report_tells_where_the_model_was_trained(full_report: Path) -> None:
    text = Page(full_report).text
    assert all(value in text for value in TRAINED_ON.values())


def test_the_report_needs_nothing_but_itself(full_report: Path) -> None:
    assert Page(full_report).fetched == []
    assert "@import" not in full_report.read_text()
    assert not re.search(r"url\((?!#)", full_report.read_text())


def test_references_inside_figures_are_unique_on_the_page(full_report: Path) -> None:
    ids = Page(full_report).ids
    assert sorted(ids) == sorted(set(ids))


def test_the_report_tells_the_numbers_of_the_run(full_report: Path) -> None:
    text = Page(full_report).text
    for words in (
        "190.0",
        "187.6 to 192.5",
        SOURCE,
        "12 episodes",
        "200 optimizer steps",
        "beam_width: 4",
        "pyarrow",
    ):
        assert words in text


def test_the_reproduce_command_names_the_runs_own_configuration(
    made_run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made_run.folder.root.parent.parent)
    assert "python jobs/run.py --config runs/made/config.yaml" in Page(write_report(made_run.folder)).text


def test_a_report_of_the_same_run_is_the_same_bytes(made_run: MadeRun) -> None:
    first = write_report(made_run.folder).read_bytes()
    assert write_report(made_run.folder).read_bytes() == first


def test_a_run_in_which_nothing_was_done_yet_says_what_to_run(empty_run: MadeRun) -> None:
    text = " ".join(Page(write_report(empty_run.folder)).text.split())
    commands = re.findall(r"(\w[^.]*) yet; this makes it: python jobs/(\w+)\.py --config", text)
    assert [(what.split(" No ")[-1], job) for what, job in commands] == [
        *(("evaluation", "evaluate"), ("shards", "prepare"), ("training", "train")),
        *(("evaluation episodes", "evaluate"), ("episodes of the planner", "evaluate")),
        *(("checkpoint with its shards", "train"), ("sweep", "sweep")),
    ]


def test_a_sweep_whose_settings_all_failed_says_so(empty_run: MadeRun) -> None:
    write_table(empty_run.folder.sweep, [])
    text = " ".join(Page(write_report(empty_run.folder)).text.split())
    assert "No setting of the sweep has an episode that ended; this tells why: python jobs/sweep.py" in text


def test_shards_outside_the_run_folder_are_found(made_run: MadeRun, tmp_path: Path) -> None:
    config = yaml.safe_load(made_run.folder.config.read_text())
    config["data"]["output"] = str(made_run.folder.shards.rename(tmp_path / "elsewhere"))
    made_run.folder.config.write_text(yaml.safe_dump(config))
    text = Page(write_report(made_run.folder)).text
    assert SOURCE in text
    assert "No shards" not in text


def test_a_run_that_evaluates_the_model_of_another_one_has_its_data_and_its_plan(made_run: MadeRun) -> None:
    chosen = RunFolder(made_run.folder.root.with_name("made-chosen"))
    chosen.root.mkdir()
    (made_run.folder.root / "evaluation").rename(chosen.root / "evaluation")
    made_run.folder.summary.rename(chosen.summary)
    config = yaml.safe_load(made_run.folder.config.read_text())
    config["evaluation"]["checkpoint"] = str(best_checkpoint(made_run.folder.checkpoints))
    chosen.config.write_text(yaml.safe_dump(config))
    page = Page(write_report(chosen))
    assert f"the model is {config['evaluation']['checkpoint']}" in page.text
    assert SOURCE in page.text
    assert any(label.startswith("Predicted and actual observations") for label in page.labels)
    assert read_run(chosen).data_set == SOURCE


def test_the_checkpoint_that_was_evaluated_is_told_and_not_a_better_one_that_came_later(made_run: MadeRun) -> None:
    manifest = read_manifest(str(made_run.folder.shards))
    before = RunRecord(made_run.folder).checkpoint
    add_checkpoint(made_run, manifest, step=400, validation_loss=0.5)
    text = Page(write_report(made_run.folder)).text
    assert "The checkpoint of step 200 is the one that is evaluated." in text
    assert RunRecord(made_run.folder).checkpoint.folder == before.folder


def test_what_checkpoints_are_selected_by_is_told_and_drawn(made_run: MadeRun) -> None:
    assert "selected by" not in Page(write_report(made_run.folder)).text
    lines = read_metrics(made_run.folder.metrics)
    accuracy = {"accuracy_action": 0.4, "validation_accuracy_action": 0.5}
    measured = [{**line, **accuracy} if line["kind"] == "epoch" else line for line in lines]
    made_run.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in measured))
    info = best_checkpoint(made_run.folder.checkpoints) / INFO
    selection = {"measure": "accuracy_action", "value": 0.5}
    info.write_text(sealed({**unsealed(info.read_bytes()), "selection": selection}))
    page = Page(write_report(made_run.folder))
    assert "Checkpoints are selected by accuracy_action on held-out episodes." in page.text
    assert "Loss by kind" in page.text
    assert "Accuracy by kind" in page.text


def test_a_checkpoint_that_was_evaluated_and_is_elsewhere_is_found_by_the_summary(
    made_run: MadeRun, tmp_path: Path
) -> None:
    elsewhere = best_checkpoint(made_run.folder.checkpoints).rename(tmp_path / "elsewhere")
    summary = unsealed(made_run.folder.summary.read_bytes())
    made_run.folder.summary.write_text(sealed({**summary, "checkpoint": str(elsewhere)}))
    add_checkpoint(made_run, read_manifest(str(made_run.folder.shards)), step=400, validation_loss=0.5)
    assert RunRecord(made_run.folder).checkpoint.folder == elsewhere


def test_a_summary_from_before_it_named_the_checkpoint_is_read(made_run: MadeRun) -> None:
    summary = unsealed(made_run.folder.summary.read_bytes())
    del summary["checkpoint"]
    made_run.folder.summary.write_text(sealed(summary))
    assert RunRecord(made_run.folder).checkpoint.info.step == 200


def test_an_evaluated_checkpoint_that_is_gone_is_no_other_one(made_run: MadeRun) -> None:
    shutil.rmtree(best_checkpoint(made_run.folder.checkpoints))
    add_checkpoint(made_run, read_manifest(str(made_run.folder.shards)), step=400, validation_loss=0.5)
    page = Page(write_report(made_run.folder))
    assert page.text.count("The checkpoint that was evaluated is not there any more.") == 1
    assert "is the one that is evaluated" not in page.text
    assert TRAINED_ON["processor"] not in page.text


def test_the_plan_is_told_by_what_it_predicted_and_what_it_earned(made_run: MadeRun) -> None:
    section = plan_section(RunRecord(made_run.folder))
    assert section is not None
    assert section.drawings
    assert "Its 2 steps earned 2.3; it predicted 2.5." in section.text


def test_a_plan_that_could_not_be_made_says_why(made_run: MadeRun) -> None:
    path = made_run.folder.episodes("trajectory_transformer") / NAME
    write_trace(path, lambda: None)
    page = Page(write_report(made_run.folder))
    assert "The episode ended before the plan was due." in page.text
    assert any(label.startswith("Attention weights") for label in page.labels)


def test_failed_and_restarted_episodes_are_counted_and_listed(empty_run: MadeRun) -> None:
    times = {"decision_ms_median": math.nan, "decision_ms_p99": math.nan}
    broken = result("random", 20, 0.0, error="ValueError: the leg <fell> off", attempts=2, **times)
    write_evaluation(empty_run.folder, write_shards(empty_run.folder), METHODS, further=(broken,))
    text = Page(write_report(empty_run.folder)).text
    assert "failed in the environment: 1; started again after a lost actor: 1" in text
    assert "Median decision time: Random policy 0.2 ms" in Page(empty_run.folder.report).labels[2]
    assert "Failed episodes" in text
    assert "random episode 20: ValueError: the leg <fell> off" in text


def test_episodes_beyond_those_of_the_summary_are_not_shown(made_run: MadeRun) -> None:
    before = Page(write_report(made_run.folder)).labels
    EpisodeStore(made_run.folder.episodes("random")).add([result("random", 20, 7654321.0)])
    assert Page(write_report(made_run.folder)).labels == before
    assert "7654321" not in made_run.folder.report.read_text()


def test_videos_are_linked_by_relative_paths(made_run: MadeRun) -> None:
    folder = made_run.folder.videos("trajectory_transformer")
    folder.mkdir(parents=True)
    (folder / "episode-000000.mp4").write_bytes(b"film")
    (folder / ".episode-000001.mp4.partial").write_bytes(b"half a film")
    page = write_report(made_run.folder)
    assert Page(page).fetched == ["videos/trajectory_transformer/episode-000000.mp4"]
    assert "Trajectory Transformer, episode-000000" in Page(page).text


def test_names_from_the_data_cannot_break_the_page(made_run: MadeRun) -> None:
    path = made_run.folder.config
    path.write_text(path.read_text() + "# </code><script>alert(1)</script>\n")
    assert "<script>alert" not in write_report(made_run.folder).read_text()


def test_a_folder_that_is_not_there_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere is not there; expected the folder of a run"):
        write_report(RunFolder(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_broken_summary_is_an_error_and_no_empty_section(made_run: MadeRun) -> None:
    made_run.folder.summary.write_text('{"data": ')
    with pytest.raises(StorageError, match=r"summary\.json is not readable"):
        write_report(made_run.folder)


def test_a_damaged_shard_is_an_error_and_no_empty_section(made_run: MadeRun) -> None:
    shard = next(made_run.folder.shards.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(ManifestError, match="sha256"):
        write_report(made_run.folder)


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_draws_every_figure_and_has_no_complaint(full_report: Path, tmp_path: Path, width: int) -> None:
    opened = open_page(full_report, tmp_path, width)
    assert opened.complaints == []
    assert opened.overflow <= 0
    assert len(opened.figures) == full_report.read_text().count("<figure>") == 11
    for figure in opened.figures:
        assert figure["width"] > 300
        assert figure["height"] > 100
        assert figure["marks"] > 10
        assert figure["outside"] == 0, figure


def test_a_report_connects_to_no_store_that_only_the_run_names(
    made_run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load(made_run.folder.config.read_text())
    config["data"]["output"] = "s3://somebody-elses/shards"
    made_run.folder.config.write_text(yaml.safe_dump(config))
    asked: list[str] = []
    monkeypatch.setattr("pipeline.reporting.record.Folder", lambda place: asked.append(place) or Nowhere())
    assert RunRecord(made_run.folder).manifest == read_manifest(str(made_run.folder.shards))  # of the checkpoint
    shutil.rmtree(made_run.folder.checkpoints)
    text = " ".join(Page(write_report(made_run.folder)).text.split())
    assert "The shards lie at s3://somebody-elses/shards, which a report reads only where its command names" in text
    assert asked == []
    assert "No shards yet" in Page(write_report(made_run.folder, "s3://somebody-elses/shards")).text
    assert set(asked) == {"s3://somebody-elses/shards"}


class Nowhere:
    def exists(self, _name: str) -> bool:
        return False


def test_a_report_imports_nothing_that_the_run_names(
    made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "somebody_elses.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = yaml.safe_load(made_run.folder.config.read_text())
    config["environment"] |= {"id": "somebody_elses:Env-v0", "wrappers": [{"name": "somebody_elses:W", "kwargs": {}}]}
    made_run.folder.config.write_text(yaml.safe_dump(config))
    assert "somebody_elses:Env-v0" in Page(write_report(made_run.folder)).text
    assert "somebody_elses" not in sys.modules


@pytest.mark.parametrize("line", ["{", "null", "[1]", '{"kind": "step"}', '{"kind": "step", "step": "x"}', "\xff"])
def test_a_damaged_line_of_the_record_is_named_and_the_others_are_shown(made_run: MadeRun, line: str) -> None:
    path = made_run.folder.metrics
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line.encode("latin-1"), *lines[1:]]))
    text = " ".join(Page(write_report(made_run.folder)).text.split())
    assert f"Line 2 of {path} is damaged and left out." in text
    assert "optimizer steps over" in text
