"""The packages import each other in one direction only, and the algorithms know no Ray."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# A package may import from its own rank and from lower ones.
RANKS = [
    {
        "errors",
        "seeding",
        "configuration",
        "records",
        "environments",
        "foreign_code",
        "findings",
        "progress",
        "provenance",
        "run_folder",
        "exclusive",
        "beside",
        "timing",
        "key_to_door",
        "workers",
        "stored",
    },
    {"tokens"},
    {"data"},
    {"collection", "acting", "live_episode"},
    {"models"},
    {"planning", "training"},
    {"methods"},
    {"references"},
    {"evaluation"},
    {"reporting"},
    {"experiment"},
    {"options", "command_line", "typed_yaml"},
    {"distributed"},
    {"benchmarks"},
]
RANK_OF = {name: rank for rank, names in enumerate(RANKS) for name in names}
MODULES = sorted((REPOSITORY / "pipeline").rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(path: Path) -> str:
    return path.relative_to(REPOSITORY / "pipeline").parts[0].removesuffix(".py")


def test_every_package_has_a_rank() -> None:
    assert {package_of(path) for path in MODULES} - {"__init__"} == set(RANK_OF)


def test_the_map_has_every_package_in_the_order_of_the_ranks() -> None:
    table = (REPOSITORY / "pipeline" / "README.md").read_text().partition("## Seams")[0]
    rows = re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE)
    names = [re.findall(r"`(\w+)`", row) for row in rows]
    assert sorted(itertools.chain(*names)) == sorted(RANK_OF)
    ranks = [[RANK_OF[name] for name in row] for row in names]
    assert all(len(set(row)) == 1 for row in ranks), "a row of the map has packages of different ranks"
    assert ranks == sorted(ranks, key=lambda row: row[0])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_imports_only_from_lower_ranks(path: Path) -> None:
    own = package_of(path)
    imported = {name.split(".")[1] for name in imported_modules(path) if name.startswith("pipeline.")}
    above = {name for name in imported if RANK_OF.get(name, -1) > RANK_OF.get(own, len(RANKS))}
    assert not above, f"{own} imports {sorted(above)}, which rank above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_only_the_distributed_package_imports_ray(path: Path) -> None:
    imports_ray = any(name.split(".")[0] == "ray" for name in imported_modules(path))
    assert not imports_ray or package_of(path) == "distributed"


def test_the_algorithms_leave_ray_unloaded() -> None:
    modules = ("methods.registry", "methods.checkpoint", "training.loop", "evaluation.rollout")
    code = f"import sys, pipeline.{', pipeline.'.join(modules)}; print('ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_a_job_is_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
