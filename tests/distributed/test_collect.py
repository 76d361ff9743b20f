import os
import signal
import threading
import time
from pathlib import Path

import minari
import pytest

from pipeline.collection.dataset import minari_root
from pipeline.distributed.collect import collect
from pipeline.errors import ConfigError, DataError, EnvironmentSetupError, RunFolderError
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
    one, two = (collected(tmp_path, name, num_actors=count) for name, count in (("one", 1), ("two", 2)))
    assert files(one / "behaviour") == files(two / "behaviour")
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
