import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.provenance import COMMIT, commit, computed_by


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_commit_is_marked_where_code_differs_and_not_where_results_do(tmp_path: Path) -> None:
    code, results = tmp_path / "code" / "one.py", tmp_path / "results.jsonl"
    code.parent.mkdir()
    for path in (code, results):
        path.write_text("first\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "First")
    head = commit(code.parent)
    assert len(head) == 12
    results.write_text("second\n")
    assert commit(code.parent) == head
    code.write_text("second\n")
    assert commit(code.parent) == f"{head} with uncommitted changes"


def test_a_folder_without_a_history_says_so_or_what_it_was_submitted_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    assert commit(tmp_path) == "not a git checkout"
    monkeypatch.setenv(COMMIT, "0123456-dirty")
    assert commit(tmp_path) == "0123456-dirty, by the job's submission"
    git(tmp_path, "init")
    (tmp_path / "file").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "First")
    assert len(commit(tmp_path)) == 12, "what is there counts, not what was said"


def test_the_kind_of_processor_has_its_instructions_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "cpu family : 26\nmodel      : 17\nmodel name : Abacus 7\nstepping : 1\n"
    monkeypatch.setattr("pipeline.provenance._cpuinfo", lambda: told)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: True)
    assert computed_by("cpu") == f"Abacus 7 (family 26 model 17, AVX2, MKL), torch {torch.__version__}"
    monkeypatch.setattr("pipeline.provenance._cpuinfo", lambda: "")
    assert computed_by("cpu").endswith(f" (AVX2, MKL), torch {torch.__version__}")


def test_a_gpu_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"Card {device}")
    assert computed_by("cuda") == f"Card cuda, torch {torch.__version__}"
