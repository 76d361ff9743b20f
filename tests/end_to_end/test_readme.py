"""Every command of the README is run, on a shrunk configuration, or checked as far as one machine allows."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def runnable() -> list[str]:
    """The jobs that need no download, no GPU and no cluster of their own."""
    return [line for line in commands() if line.startswith("python jobs/") and "configs/quickstart.yaml" in line]


def test_the_readme_shows_commands() -> None:
    assert len(runnable()) >= 5


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_the_two_commands_of_the_first_screen_are_targets_of_make(target: str) -> None:
    assert f"make {target}" in README
    run = subprocess.run(
        ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    expected = {"quickstart": "jobs/run.py --config configs/quickstart.yaml", "test": "-m pytest"}[target]
    assert expected in run.stdout


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python jobs/")])
def test_a_command_names_only_files_that_exist(line: str) -> None:
    for word in shlex.split(line):
        if word.endswith((".py", ".yaml")) and not word.startswith("runs/"):
            assert (REPOSITORY / word).is_file(), word


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_run_in_the_order_in_which_they_stand(
    cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    for line in runnable():
        words = [*shlex.split(line), "--config", str(TINY), "--runs", str(runs)]
        run = subprocess.run(
            words, cwd=REPOSITORY, env=cluster, capture_output=True, text=True, timeout=120, check=False
        )
        assert run.returncode == 0, f"{line}\n{run.stdout[-3000:]}\n{run.stderr[-5000:]}"
