"""Where numbers come from: versions, hardware and commit of the process that asks."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("ray", "torch", "gymnasium", "mujoco", "minari", "numpy", "pyarrow", "pydantic", "safetensors")

COMMIT = "TRAJECTORY_PIPELINE_COMMIT"
"""Environment variable: the commit of code that came without its history, as `git describe --always --dirty` says."""


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware() -> dict[str, str]:
    """Returns the machine in words: operating system, processor, memory and GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "GPU": ", ".join(gpus) or "none",
    }


def processor() -> str:
    """Returns the processor's name: Linux tells it in a file, elsewhere Python's own word must do."""
    named = re.search(r"(?m)^model name\s*:\s*(.+)", _cpuinfo())
    return named[1].strip() if named else platform.processor() or platform.machine()


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def computed_by(device: str | torch.device) -> str:
    """Returns in words what decides the last bits of what torch computes there: another kind gives other ones.

    Args:
        device: Of the computation.
    """
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    products = "MKL" if torch.backends.mkl.is_available() else "no MKL"  # type: ignore[no-untyped-call]
    kind = [*_generation(), torch.backends.cpu.get_cpu_capability(), products]
    return f"{processor()} ({', '.join(kind)}), torch {torch.__version__}"


def _generation() -> list[str]:
    """Returns the processor's family and model where Linux tells them: virtual machines hide them behind one name."""
    told = dict(re.findall(r"(?m)^(cpu family|model)\s*:\s*(\w+)", _cpuinfo()))
    return [f"family {told['cpu family']} model {told['model']}"] if len(told) == 2 else []


def other_processor(what: str, before: Iterable[str], now: Iterable[str]) -> str:
    """Returns in words that `what` was computed by some kinds of processor (`computed_by`), and goes on with others."""
    old, new = (", ".join(sorted(set(kinds))) for kinds in (before, now))
    return (
        f"{what} was computed by {old}, and goes on with {new}. Both are right, but their last bits differ, and with "
        "them what is chosen."
    )


def commit(folder: Path = Path(__file__).parent) -> str:
    """Returns the git commit of `folder`, or says that there is none; marked where files below it differ from it.

    A job that was submitted to a cluster runs a copy without history: there it is what the environment variable COMMIT
    says, which `ray job submit` can be given.

    Args:
        folder: Inside a checkout; this code's own if not given, so that notes and results beside it do not count.
    """
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        told = os.environ.get(COMMIT)
        return f"{told}, by the job's submission" if told else "not a git checkout"
    return f"{head} with uncommitted changes" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
