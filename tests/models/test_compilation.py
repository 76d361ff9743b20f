"""Where compiled loops are kept: in an image of root's the code and the home folder are closed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest

from pipeline.models.kernels import draw_mask
from tests.conftest import REPOSITORY

MASK = """
import numpy as np
import pipeline.planning.kernels
from pipeline.models.kernels import draw_mask
mask = np.zeros(1000, np.uint32)
draw_mask(np.uint64(1), np.uint64(2**15), np.uint32(1), mask)
print(pipeline.planning.kernels.__file__, mask.mean(), sum(draw_mask.stats.cache_hits.values()))
"""


def mean() -> str:
    """What `MASK` prints of a mask that it draws."""
    mask = np.zeros(1000, np.uint32)
    draw_mask(np.uint64(1), np.uint64(2**15), np.uint32(1), mask)
    return str(mask.mean())


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A copy of what is compiled, which nobody may write to, beside a home folder that is closed as well."""
    folder = tmp_path / "closed"
    for package in ("models", "planning"):
        shutil.copytree(
            REPOSITORY / "pipeline" / package, folder / "pipeline" / package, ignore=lambda *_: ["__pycache__"]
        )
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def draw_in(closed: Path, temporary: Path) -> list[str]:
    """Draws a mask in a process to which `closed` is closed; permissions do not hold for root, who gives that up."""
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up with")
    nobody_special = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    run = subprocess.run(
        [*nobody_special, sys.executable, "-c", MASK],
        env={"PATH": os.environ["PATH"], "HOME": str(closed), "PYTHONPATH": str(closed), "TMPDIR": str(temporary)},
        cwd=closed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_with_code_and_home_closed_the_next_process_finds_what_one_compiled(closed: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert draw_in(closed, temporary) == [str(closed / "pipeline/planning/kernels.py"), mean(), "0"]
    (folder,) = temporary.iterdir()
    assert (folder.name, folder.stat().st_mode & 0o777) == (f"trajectory-pipeline-numba-{os.getuid()}", 0o700)
    assert draw_in(closed, temporary)[1:] == [mean(), "1"]


def test_with_no_place_that_is_its_own_a_process_compiles_for_itself(closed: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    of_others = temporary / f"trajectory-pipeline-numba-{os.getuid()}"
    of_others.mkdir(parents=True)
    of_others.chmod(0o777)
    assert [draw_in(closed, temporary)[1:] for _ in range(2)] == [[mean(), "0"]] * 2
    assert list(of_others.iterdir()) == []


def test_where_numba_has_a_place_of_its_own_it_keeps_it() -> None:
    assert os.environ["NUMBA_CACHE_DIR"] == numba.config.CACHE_DIR
