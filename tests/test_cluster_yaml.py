"""cluster.yaml is what `ray up` accepts: Ray has no dry run, so these call what it calls first."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import REPOSITORY

CLUSTER = REPOSITORY / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


def test_ray_refuses_it_with_a_misspelled_key(cluster: dict[str, Any]) -> None:
    cluster["max_wrokers"] = 3
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(cluster))


def test_it_has_a_cpu_head_a_cpu_group_and_a_gpu_group(cluster: dict[str, Any]) -> None:
    assert set(cluster["available_node_types"]) == {"head", "cpu", "gpu"}
    assert cluster["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_the_groups_fit_into_the_whole(cluster: dict[str, Any]) -> None:
    groups = cluster["available_node_types"].values()
    assert sum(group.get("max_workers", 0) for group in groups) <= cluster["max_workers"]


def test_every_ray_process_asks_for_the_token_and_the_dashboard_stays_on_loopback(cluster: dict[str, Any]) -> None:
    starts = [
        line
        for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_nodes_get_what_the_autoscaler_needs_for_the_provider(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["type"] == "aws"
    assert any("pip install" in line and "boto3" in line.split() for line in cluster["setup_commands"])


def test_the_shared_storage_is_mounted_once_its_lines_are_uncommented() -> None:
    lines = CLUSTER.read_text().splitlines()
    text = "\n".join(line.replace("  # - ", "  - ") for line in lines)
    cluster = yaml.safe_load(text)
    validate_config(prepare_config(copy.deepcopy(cluster)))
    commands = cluster["setup_commands"]
    update, nfs, mount = (
        next(place for place, command in enumerate(commands) if words in command)
        for words in ("apt-get update", "install --yes --quiet nfs-common", "mount -t nfs4")
    )
    assert update < nfs < mount
    assert min(place for place, command in enumerate(commands) if "apt-get install" in command) > update
    runs = re.search(r"--runs (/\S+)", text)
    assert runs is not None
    assert runs[1].startswith(commands[mount].split()[-1])


def test_the_readme_brings_what_ray_up_needs_before_it() -> None:
    readme = (CLUSTER.parent / "README.md").read_text()
    before = readme[: readme.index("ray up cluster.yaml\n")]
    assert "pip install boto3" in before
    assert "ray get-auth-token --generate" in before, "cluster.yaml mounts the token that this writes"


def test_ray_has_the_command_that_writes_the_mounted_token(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "ray", "get-auth-token", "--generate"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        command, env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=True
    )
    assert (tmp_path / ".ray" / "auth_token").read_text().strip() == done.stdout.strip() != ""
