import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import ray

from pipeline.collection.dataset import minari_root
from pipeline.distributed.collect import collect
from pipeline.distributed.room import actors_to_start
from pipeline.errors import ConfigError, DataError, EnvironmentSetupError, RunFolderError
from tests.collection.test_policy_file import write_policy
from tests.distributed.processes import descendants
from tests.distributed.stages import experiment, files, run_and_kill

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

LONG = 15_000
BEHAVIOURS = [{"policy": "random"}, {"policy": "inverted_pendulum", "noise": 1.0}]


def collected(runs: Path, name: str, **settings: object) -> Path:
    entire, run = experiment(runs, name, collect={"steps": 3000, "behaviours": BEHAVIOURS, **settings})
    collect(entire, run)
    return run.root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The behaviour that an undisturbed collection of LONG steps gives."""
    return collected(tmp_path_factory.mktemp("whole"), "whole", steps=LONG) / "behaviour"


def test_the_number_of_actors_changes_no_byte(tmp_path: Path) -> None:
    counts = {"one": 1, "two": 2, "more than find room": 5}
    one, two, five = (collected(tmp_path, name.replace(" ", "-"), num_actors=count) for name, count in counts.items())
    assert files(one / "behaviour") == files(two / "behaviour") == files(five / "behaviour")
    assert not (one / "behaviour.parts").exists()
    with minari_root(one / "behaviour"):
        dataset = minari.load_dataset("collected/behaviour-v0")
    lengths = [len(episode.rewards) for episode in dataset.iterate_episodes()]
    assert sum(lengths) >= 3000 > sum(lengths[:-1])


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    root = collected(tmp_path, "again")
    written = (root / "behaviour/collected/behaviour-v0/data/main_data.hdf5").stat().st_mtime_ns
    (root / "behaviour.parts").mkdir()  # as a process leaves it that is killed in its last moment
    collected(tmp_path, "again")
    assert (root / "behaviour/collected/behaviour-v0/data/main_data.hdf5").stat().st_mtime_ns == written
    assert not (root / "behaviour.parts").exists()


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    collected(tmp_path, "once")
    with pytest.raises(
        RunFolderError, match=r"holds behaviour of another configuration.*\n.*collect.steps: was 3000, is 9"
    ):
        collected(tmp_path, "once", steps=9)


def test_a_killed_collection_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    entire, run = experiment(tmp_path, "killed", collect={"steps": LONG, "behaviours": BEHAVIOURS})
    run_and_kill("collect", entire, lambda: len(list(run.behaviour_parts.glob("part-*.npz"))) >= 3)
    assert not (run.behaviour / "collected").exists()
    kept = {path: path.stat().st_mtime_ns for path in run.behaviour_parts.glob("part-*.npz")}
    assert len(kept) >= 3
    collect(entire, run)
    assert files(run.behaviour) == files(whole)


def test_a_killed_actor_costs_only_its_chunk(tmp_path: Path, whole: Path) -> None:
    entire, run = experiment(tmp_path, "lost", collect={"steps": LONG, "behaviours": BEHAVIOURS})
    killer = threading.Thread(target=_kill_an_actor_once_there_are_parts, args=(run.behaviour_parts,))
    killer.start()
    collect(entire, run)
    killer.join(timeout=60)
    assert files(run.behaviour) == files(whole)


def _kill_an_actor_once_there_are_parts(parts: Path) -> None:
    for _ in range(3000):
        actors = descendants(os.getpid(), "ray::CollectorActor")
        if actors and list(parts.glob("part-*.npz")):
            os.kill(actors[0], signal.SIGKILL)
            return
        time.sleep(0.01)
    raise AssertionError("no actor was seen within 30 s")


def test_a_part_that_was_cut_off_is_collected_again(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entire, run = experiment(tmp_path, "cut", collect={"steps": LONG, "behaviours": BEHAVIOURS})
    run_and_kill("collect", entire, lambda: len(list(run.behaviour_parts.glob("part-*.npz"))) >= 3)
    cut = min(run.behaviour_parts.glob("part-*.npz"))
    cut.write_bytes(b"")  # as a power failure leaves what was not flushed
    collect(entire, run)
    assert files(run.behaviour) == files(whole)
    assert f"{cut} cannot be read (EOFError: No data left in file); expected 25 ep" in capsys.readouterr().out


def test_a_small_collection_of_long_episodes_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(
        "pipeline.distributed.collect.actors_to_start", lambda most, useful, grows: counts.append(useful) or 2
    )
    environment = {"id": "InvertedPendulum-v5", "max_episode_steps": 1000}
    entire, run = experiment(
        tmp_path,
        "long",
        environment=environment,
        collect={"steps": 20_000, "behaviours": [{"policy": "inverted_pendulum"}]},
    )
    collect(entire, run)
    assert counts[0] == 4
    assert counts == sorted(counts, reverse=True)


def test_a_cluster_that_may_grow_is_asked_for_more_actors_and_none_of_them_keeps_a_chunk(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def recorded(*arguments: Any) -> int:
        asked.append(actors_to_start(*arguments))
        return asked[-1]

    monkeypatch.setattr("pipeline.distributed.collect.actors_to_start", recorded)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    grown = collected(tmp_path, "grown", steps=LONG)
    assert asked[0] == LONG / (25 * 50) > ray.cluster_resources()["CPU"]
    assert files(grown / "behaviour") == files(whole)


def test_a_policy_file_s_path_is_relative_to_where_the_job_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_policy(tmp_path / "elsewhere" / "still.npz", b0=None, w0=np.zeros((4, 1), np.float32), w1=None)
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = collected(tmp_path, "relative", steps=100, behaviours=[{"policy": "still.npz"}])
    with h5py.File(root / "behaviour/collected/behaviour-v0/data/main_data.hdf5") as file:
        assert file["episode_0"].attrs["policy"] == "still.npz", "data must not name a machine"


def test_what_a_user_got_wrong_is_told_before_an_actor_starts(tmp_path: Path) -> None:
    for settings, error, message in (
        ({"collect": {"dataset_id": "nothing"}}, ConfigError, "expected namespace/name-vN"),
        ({"collect": {"behaviours": [{"policy": "best"}]}}, ConfigError, "policy 'best'; expected random"),
        ({"collect": {"behaviours": [{"policy": "none.npz"}]}}, DataError, "policy is 'none.npz'; expected a policy"),
        ({"environment": {"id": "Nothing-v0"}}, EnvironmentSetupError, "environment.id is 'Nothing-v0'"),
    ):
        entire, run = experiment(tmp_path, "wrong", **settings)
        with pytest.raises(error, match=message):
            collect(entire, run)
        assert not run.root.exists()
