"""Runs code as another processor would: the libraries' kernels for older instruction sets, on this one."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import NUMBA_CACHE

_CPUINFO = Path("/proc/cpuinfo")

_AVX2 = "+avx,+avx2,+fma"
# What the instruction set needs, and how each library is told to use no more than it: numpy's and scipy's OpenBLAS,
# torch's own kernels, its oneDNN, and Numba. Torch's MKL asks the processor and takes no orders on AMD.
_SETTINGS = {
    "AVX": ("avx", "Sandybridge", "default", "AVX", "sandybridge", "+avx"),
    "AVX2": ("avx2", "Haswell", "avx2", "AVX2", "haswell", _AVX2),
    "AVX512": (
        "avx512vl",
        "SkylakeX",
        "avx512",
        "AVX512_CORE",
        "skylake-avx512",
        f"{_AVX2},+avx512f,+avx512cd,+avx512dq,+avx512bw,+avx512vl",
    ),
}
_VARIABLES = (
    "OPENBLAS_CORETYPE",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
)


def emulated() -> list[str]:
    """Returns the instruction sets that this processor can be told to keep to; none off x86."""
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return [name for name, (needed, *_) in _SETTINGS.items() if needed in flags]


def run_as(instructions: str, *arguments: str, **variables: str) -> str:
    """Runs `python` with `arguments` as a processor with these instructions; returns what it printed."""
    settings = dict(zip(_VARIABLES, _SETTINGS[instructions][1:], strict=True))
    environment = {**os.environ, **settings, "NUMBA_CACHE_DIR": str(NUMBA_CACHE / instructions), **variables}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
