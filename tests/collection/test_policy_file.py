import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from pipeline.collection.policy_file import FilePolicy
from pipeline.errors import DataError

HEADER = {
    "activation": "relu",
    "squash": "none",
    "clip_mean": 0.0,
    "clip_obs": 10.0,
    "epsilon": 0.0,
    "source": "a test",
}


def write_policy(path: Path, header: dict[str, object] | None = None, **arrays: object) -> Path:
    """Two inputs, two hidden units, one action: relu(x @ [[1, 0], [0, 2]] + [0, -1]) @ [1, 1]."""
    content: dict[str, object] = {
        "w0": np.array([[1, 0], [0, 2]], np.float32),
        "b0": np.array([0, -1], np.float32),
        "w1": np.array([[1], [1]], np.float32),
        "act_low": np.array([-9], np.float32),
        "act_high": np.array([9], np.float32),
        "meta": json.dumps({**HEADER, **(header or {})}),
        **arrays,
    }
    np.savez(path, **{name: np.asarray(array) for name, array in content.items() if array is not None})
    return path


def act(path: Path, observation: list[float], step: int = 0) -> float:
    return float(FilePolicy(path).act(np.array(observation), step, None)[0])


def test_a_hidden_layer_by_hand(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.npz")
    assert act(path, [3.0, 4.0]) == 3 + 7
    assert act(path, [-3.0, 0.25]) == 0


@pytest.mark.parametrize(
    ("activation", "expected"), [("tanh", np.tanh(-3) + np.tanh(7)), ("elu", np.exp(-3) - 1 + 7), ("relu", 7.0)]
)
def test_activations(tmp_path: Path, activation: str, expected: float) -> None:
    path = write_policy(tmp_path / "p.npz", {"activation": activation})
    assert act(path, [-3.0, 4.0]) == pytest.approx(expected, abs=1e-6)


def test_squashing_maps_to_the_action_bounds(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "p.npz",
        {"squash": "tanh"},
        act_low=np.array([0.0], np.float32),
        act_high=np.array([4.0], np.float32),
    )
    assert act(path, [0.0, 0.5]) == pytest.approx(2.0)
    assert act(path, [50.0, 0.5]) == pytest.approx(4.0)


def test_the_mean_is_bounded_before_squashing(tmp_path: Path) -> None:
    assert act(write_policy(tmp_path / "p.npz", {"clip_mean": 2.0}), [3.0, 4.0]) == 2.0


def test_inputs_are_normalised_and_clipped(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "p.npz", {"clip_obs": 1.5}, obs_mean=np.array([1.0, 1.0]), obs_var=np.array([4.0, 4.0])
    )
    # (5 - 1) / 2 = 2 is clipped to 1.5, (3 - 1) / 2 = 1.
    assert act(path, [5.0, 3.0]) == 1.5 + 1.0


def test_the_time_left_is_the_last_input(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.npz", {"time_feature": True, "max_steps": 10})
    assert act(path, [0.0], step=2) == pytest.approx(2 * 0.8 - 1)


def test_inputs_are_cut_and_padded(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.npz", {"obs_slice": [1, 2], "pad_to": 2})
    assert act(path, [9.0, 5.0, 9.0]) == 5.0


def test_the_policys_own_gaussian_is_drawn_from_where_a_generator_is_given(tmp_path: Path) -> None:
    policy = FilePolicy(write_policy(tmp_path / "p.npz", log_std=np.array([np.log(0.5)], np.float32)))
    draws = [policy.act(np.zeros(2), 0, np.random.default_rng(seed))[0] for seed in range(500)]
    assert policy.has_gaussian
    assert np.std(draws) == pytest.approx(0.5, rel=0.1)
    assert policy.act(np.zeros(2), 0, None).tolist() == [0.0]


def test_a_gaussian_head_depends_on_the_last_hidden_layer(tmp_path: Path) -> None:
    head = {"log_std_w": np.array([[1.0], [0.0]], np.float32), "log_std_b": np.array([0.0], np.float32)}
    policy = FilePolicy(write_policy(tmp_path / "p.npz", **head))
    wide, narrow = (policy.act(np.array([x, 0.0]), 0, np.random.default_rng(3))[0] - x for x in (2.0, 0.0))
    assert wide == pytest.approx(np.exp(2.0) * narrow, rel=1e-5)


@pytest.mark.parametrize(
    "content", [{"meta": None}, {"w0": None, "b0": None, "w1": None}, {"meta": "{}"}, {"act_low": None}]
)
def test_a_file_that_lacks_a_part_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"policy is '.*p.npz'; expected a policy file: an .npz of plain arrays"):
        FilePolicy(write_policy(tmp_path / "p.npz", **content))


def test_a_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.npz", w0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"expected a policy file: .*ValueError: it holds pickled objects"):
        FilePolicy(path)


def test_a_missing_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FileNotFoundError"):
        FilePolicy(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="BadZipFile"):
        FilePolicy(tmp_path / "broken.npz")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper-expert", [1.0, 0.47029, -1.0]),
        ("hopper-medium", [0.4086, -0.75852, 0.99933]),
        ("walker2d-expert", [-0.64558, 0.99793, -0.96353, -0.69708, 0.93068, 0.95764]),
        ("walker2d-medium", [-0.78966, 1.0, -0.59452, 1.0, 1.0, -0.12567]),
        ("own/hopper-01050552", [-0.48959, -0.48034, -1.0]),
    ],
)
def test_published_policies_act_as_in_the_reader_that_lies_beside_them(
    shared: Path, name: str, expected: list[float]
) -> None:
    policy = FilePolicy(shared / "policies" / f"{name}.npz")
    observation = np.linspace(-0.05, 0.13, 11 if "hopper" in name else 17)
    action = np.clip(policy.act(observation, 100, None), -1, 1)
    assert action == pytest.approx(expected, abs=1e-4)


def test_the_medium_hopper_earns_what_was_published(shared: Path) -> None:
    policy = FilePolicy(shared / "policies" / "hopper-medium.npz")
    environment = gymnasium.make("Hopper-v5")
    observation, _ = environment.reset(seed=5011)
    total, step, over = 0.0, 0, False
    while not over:
        action = np.clip(policy.act(observation, step, None), -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, step, over = total + float(reward), step + 1, terminated or truncated
    # 50 episodes have 1184 +- 387, none below 1044.
    assert 1000 < total < 3600


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({"max_steps": 0, "time_feature": True}, {}, "max_steps"),
        ({}, {"w1": np.zeros((3, 1), np.float32)}, "shapes do not fit each other"),
        ({}, {"w0": np.zeros(4, np.float32)}, "a weight is no matrix"),
        ({}, {"b0": np.zeros(3, np.float32)}, r"shapes do not fit each other: \{'b0': \(3,\)\}"),
        ({}, {"act_high": np.zeros(2, np.float32)}, r"shapes do not fit each other: \{'act_high'"),
        ({}, {"obs_mean": np.zeros(5), "obs_var": np.ones(5)}, r"shapes do not fit each other: \{'obs_mean'"),
        ({}, {"obs_mean": np.zeros(2)}, "it has one of obs_mean and obs_var without the other"),
        ({}, {"log_std_w": np.zeros((2, 1))}, "it has one of log_std_w and log_std_b without the other"),
        ({}, {"obs_mean": np.zeros(2), "obs_var": np.array([1.0, -1.0])}, "obs_var is not above 0"),
        ({}, {"w1": np.full((2, 1), np.nan, np.float32)}, r"\['w1'\] are not all finite numbers"),
        ({}, {"b0": np.array(["a", "b"])}, r"\['b0'\] are not all finite numbers"),
    ],
)
def test_a_policy_whose_parts_do_not_fit_is_refused_when_it_is_read(
    tmp_path: Path, header: dict[str, object], arrays: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=f"expected a policy file: .*{message}"):
        FilePolicy(write_policy(tmp_path / "p.npz", header, **arrays))
