"""Jobs as processes of their own, which tests may kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import REPOSITORY


def start_job(job: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts `jobs/<job>.py`; what it prints goes to `log`."""
    command = [sys.executable, f"jobs/{job}.py", *arguments]
    # So that a job can make the tests' own environments by their module's name.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, env=environment)


def wait_for(condition: Callable[[], bool], what: str, log: Path, seconds: float = 180) -> None:
    """Waits until `condition` holds; fails with the job's output if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds} s: {what}\n{log.read_text()[-3000:]}")
        time.sleep(0.05)


def descendants(pid: int, name: str) -> list[int]:
    """Returns the processes below `pid` whose title has `name`, by /proc."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it ended between the listing and the look
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])

    def below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == pid:
                return True
        return False

    return [process for process, title in titles.items() if name in title and below(process)]


def some_descendants(pid: int, name: str, log: Path) -> list[int]:
    """Returns what `descendants` gives, once there are some: a process has no title while it is given another one."""
    found: list[int] = []

    def are_some() -> bool:
        found.extend(descendants(pid, name))
        return bool(found)

    wait_for(are_some, f"a process of {name}", log, seconds=30)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process has not ended yet."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty for one that ended and was not yet waited for
    except OSError:
        return False
