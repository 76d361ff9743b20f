import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import ray

from pipeline.collection.dataset import minari_root
from pipeline.collection.episodes import Collector
from pipeline.collection.parts import chunk_episodes, part_path, write_part
from pipeline.distributed import actor_pool
from pipeline.distributed.collect import collect
from pipeline.distributed.room import actors_to_start
from pipeline.errors import ConfigError, DataError, EnvironmentFaultError, EnvironmentSetupError, RunFolderError
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from pipeline.seeding import derived_seed
from tests.collection.test_policy_file import write_policy
from tests.distributed.stages import experiment, files, run_and_kill
from tests.evaluation.counting import ID
from tests.quirks import ID as QUIRKY

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

BEHAVIOURS = [{"policy": "random"}, {"policy": "inverted_pendulum", "noise": 1.0}]
SIZE = 25
"""Episodes of a chunk, where these have at most 50 steps."""


def collected(runs: Path, name: str, **settings: object) -> Path:
    entire, run = experiment(runs, name, collect={"steps": 3000, "behaviours": BEHAVIOURS, **settings})
    collect(entire, run)
    return run.root


def counting(runs: Path, name: str, **kwargs: Any) -> tuple[Experiment, RunFolder]:
    """A collection of about ten chunks in the counting environment, which notes each episode that is begun."""
    environment = {"id": ID, "max_episode_steps": 50, "kwargs": {"log": str(runs / "log"), **kwargs}}
    return experiment(runs, name, environment=environment, collect={"steps": 1000})


def begun(runs: Path) -> Counter[int]:
    """How often each episode was begun, by its seed."""
    return Counter(int(path.name.partition("-")[0]) for path in (runs / "log").glob("*-*"))


def seeds(chunk: int) -> set[int]:
    return {derived_seed(0, "collect reset", episode) for episode in chunk_episodes(chunk, SIZE)}


def parts(run: RunFolder) -> list[int]:
    """The chunks that are there."""
    return sorted(int(path.stem.removeprefix("part-")) for path in run.behaviour_parts.glob("part-*.npz"))


def test_the_number_of_actors_changes_no_byte(tmp_path: Path) -> None:
    counts = {"one": 1, "two": 2, "more than find room": 5}
    one, two, five = (collected(tmp_path, name.replace(" ", "-"), num_actors=count) for name, count in counts.items())
    assert files(one / "behaviour") == files(two / "behaviour") == files(five / "behaviour")
    assert not (one / "behaviour.parts").exists()
    with minari_root(one / "behaviour"):
        dataset = minari.load_dataset("collected/behaviour-v0")
    lengths = [len(episode.rewards) for episode in dataset.iterate_episodes()]
    assert sum(lengths) >= 3000 > sum(lengths[:-1])


def test_a_second_call_does_nothing_and_one_with_another_configuration_is_refused(tmp_path: Path) -> None:
    root = collected(tmp_path, "again")
    written = (root / "behaviour/collected/behaviour-v0/data/main_data.hdf5").stat().st_mtime_ns
    (root / "behaviour.parts").mkdir()  # as a process leaves it that is killed in its last moment
    collected(tmp_path, "again")
    assert (root / "behaviour/collected/behaviour-v0/data/main_data.hdf5").stat().st_mtime_ns == written
    assert not (root / "behaviour.parts").exists()
    with pytest.raises(
        RunFolderError, match=r"holds behaviour of another configuration.*\n.*collect.steps: was 3000, is 9"
    ):
        collected(tmp_path, "again", steps=9)


def assert_as_collected_at_once(run: RunFolder, runs: Path, **kwargs: Any) -> None:
    """Checks the bytes against those of a collection that nothing disturbs any more."""
    entire, other = counting(runs, "at-once", **kwargs)
    collect(entire, other)
    assert files(run.behaviour) == files(other.behaviour)


@pytest.mark.slow
def test_a_killed_collection_goes_on_collects_a_part_that_was_cut_off_again_and_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed when four chunks' worth of episodes had begun, with at least two chunks that ended."""
    entire, run = counting(tmp_path, "killed", pause_at=4 * SIZE)
    run_and_kill("collect", entire, lambda: len(parts(run)) >= 2 and begun(tmp_path).total() == 4 * SIZE)
    assert not (run.behaviour / "collected").exists()
    (tmp_path / "log" / "open").touch()
    cut, *kept = parts(run)
    path = run.behaviour_parts / f"part-{cut:06d}.npz"
    path.write_bytes(b"")  # as a power failure leaves what was not flushed
    collect(entire, run)
    assert (
        f"{path} cannot be read (ValueError: BadZipFile: File is not a zip file); expected 25 ep"
        in capsys.readouterr().out
    )
    assert {begun(tmp_path)[seed] for seed in seeds(cut)} == {2}
    assert {begun(tmp_path)[seed] for chunk in kept for seed in seeds(chunk)} == {1}, "what was kept was done again"
    assert_as_collected_at_once(run, tmp_path, pause_at=4 * SIZE)


@pytest.mark.parametrize("kill_with", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
def test_a_lost_actor_costs_only_its_chunk(tmp_path: Path, kill_with: int) -> None:
    """Ray makes SIGTERM an exception in whatever the process does, in its environment's step here."""
    kills = {"kill_once": str(tmp_path / "killed"), "kill_with": int(kill_with)}
    entire, run = counting(tmp_path, "lost", **kills)
    collect(entire, run)
    twice = {seed for seed, count in begun(tmp_path).items() if count > 1}
    assert twice, "no actor was killed"
    assert any(twice <= seeds(chunk) for chunk in range(40))
    assert_as_collected_at_once(run, tmp_path, **kills)


GATHERING = [{"name": "NormalizeObservation"}, {"name": "NormalizeReward"}]


def test_what_wrappers_gather_depends_on_no_episode_that_an_actor_collected_before(tmp_path: Path) -> None:
    settings = {
        "environment": {"id": "InvertedPendulum-v5", "max_episode_steps": 50, "wrappers": GATHERING},
        "collect": {"steps": 200, "num_actors": 1},
    }
    at_once, resumed = (experiment(tmp_path, name, **settings) for name in ("at-once", "resumed"))
    collect(*at_once)
    # As an interrupted collection leaves it: the next actor begins with the second chunk.
    entire, run = resumed
    collector = Collector(entire.environment, entire.collect.behaviours, entire.seed)
    write_part(part_path(run.behaviour_parts, 0), [collector.collect(number) for number in chunk_episodes(0, SIZE)])
    collect(*resumed)
    assert files(run.behaviour) == files(at_once[1].behaviour)
    with minari_root(run.behaviour):
        assert minari.load_dataset("collected/behaviour-v0").total_episodes > SIZE, "one chunk was all"


def test_what_an_environment_does_wrong_is_one_sentence(tmp_path: Path) -> None:
    settings = {"environment": {"id": QUIRKY, "kwargs": {"quirk": "reward None"}}, "collect": {"num_actors": 1}}
    with pytest.raises(EnvironmentFaultError) as raised:
        collect(*experiment(tmp_path, "faulty", **settings))
    assert str(raised.value) == (
        f"environment.id is '{QUIRKY}', whose episode 0 failed: step 1 gave the reward None; expected one number. Put "
        "the environment right, or a wrapper around it (environment.wrappers)."
    )


def test_an_environment_registered_by_a_function_without_a_name_is_collected_and_its_loss_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"environment": {"id": "tests.quirks:ByFunction-v0"}, "collect": {"steps": 50, "num_actors": 1}}
    entire, run = experiment(tmp_path, "nameless", **settings)
    collect(entire, run)
    told = " ".join(capsys.readouterr().out.split())
    assert "the data set will not name its environment, whose registration cannot be written down: Callable fo" in told
    with minari_root(run.behaviour):
        assert minari.load_dataset("collected/behaviour-v0").total_steps == 50


def test_an_environment_that_hangs_costs_only_its_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, real = tmp_path / "hangs", actor_pool.time.monotonic
    # The limit is over as soon as it hangs.
    late = SimpleNamespace(monotonic=lambda: real() + (3600 if hangs.exists() else 0))
    monkeypatch.setattr(actor_pool, "time", late)
    entire, run = counting(tmp_path, "hung", hang_once=str(hangs))
    collect(entire, run)
    assert max(begun(tmp_path).values()) == 2
    assert_as_collected_at_once(run, tmp_path, hang_once=str(hangs))


def test_a_chunk_that_always_loses_its_process_is_named(tmp_path: Path) -> None:
    fatal = int(np.random.Generator(np.random.PCG64(min(seeds(0)))).integers(100))
    entire, run = counting(tmp_path, "fatal", length=100, kill_number=fatal)
    with pytest.raises(DataError, match=r"^episodes \d+ to \d+ lost their process 3 times; expected them to end"):
        collect(entire, run)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What a cluster that may grow was asked for, in order."""
    asked: list[int] = []

    def recorded(*arguments: Any) -> int:
        asked.append(actors_to_start(*arguments))
        return asked[-1]

    monkeypatch.setattr("pipeline.distributed.collect.actors_to_start", recorded)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    return asked


def test_a_cluster_that_may_grow_is_not_asked_for_more_than_it_has_where_seconds_are_left(
    tmp_path: Path, asked: list[int]
) -> None:
    collected(tmp_path, "short")
    assert max(asked) == ray.cluster_resources()["CPU"]


def test_a_cluster_that_may_grow_is_asked_for_more_once_the_work_was_measured(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.distributed.collect.SECONDS_PER_ACTOR", 1e-6)
    grown = collected(tmp_path, "grown", steps=6_000)
    assert asked[0] == ray.cluster_resources()["CPU"], "nothing is measured yet"
    assert max(asked) > 6_000 / (SIZE * 50), "each chunk that is left is worth an actor"
    monkeypatch.delenv("RAY_ADDRESS")
    assert files(grown / "behaviour") == files(collected(tmp_path, "fixed", steps=6_000) / "behaviour")


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
