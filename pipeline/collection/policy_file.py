"""Policies stored as plain arrays: one `.npz` without pickle, a small network and a JSON header.

Arrays: `w0, b0, ..., wN, bN` (a layer is `x @ w + b`, b may be absent), `act_low`, `act_high`; optional `obs_mean` and
`obs_var` (inputs are normalised and clipped), and either `log_std` or `log_std_w` with `log_std_b` (a head on the last
hidden layer) for the policy's own Gaussian. The header `meta` names activation, squashing and input changes.
"""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataError
from pipeline.findings import findings
from pipeline.stored import npz_arrays, read_bytes

_PAIRS = (("obs_mean", "obs_var"), ("log_std_w", "log_std_b"))


class PolicyHeader(BaseModel):
    """The fields of the header that decide what the policy does; provenance stands beside them and is not read.

    Attributes:
        activation: Of the hidden layers.
        squash: `tanh` maps the output to the action bounds, `none` leaves it.
        clip_mean: Bound of the output before squashing; 0 for none.
        clip_obs, epsilon: Of the normalisation.
        time_feature, max_steps: The input ends with `1 - step / max_steps`.
        obs_slice: Range of the observation that is used.
        pad_to: Zeros are appended up to this length.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    activation: Literal["relu", "tanh", "elu"]
    squash: Literal["tanh", "none"]
    clip_mean: float = 0.0
    clip_obs: float = 10.0
    epsilon: float = 1e-8
    time_feature: bool = False
    max_steps: int = Field(1000, ge=1)
    obs_slice: tuple[int, int] | None = None
    pad_to: int | None = Field(None, ge=0, le=100_000)


class FilePolicy:
    """A policy read from a file.

    Args:
        path: The `.npz`.

    Raises:
        DataError: The file is missing, is no `.npz`, holds pickled objects, or lacks an array or a field.
    """

    def __init__(self, path: Path) -> None:
        try:
            arrays = npz_arrays(read_bytes(path))
            self._header = PolicyHeader.model_validate_json(str(arrays.pop("meta")))
            self._low, self._high = arrays["act_low"], arrays["act_high"]
            count = sum(name[0] == "w" and name[1:].isdigit() for name in arrays)
            self._layers = [(arrays[f"w{i}"], arrays.get(f"b{i}", np.float32(0))) for i in range(count)]
            self._output = self._layers[-1]
            self._arrays = arrays
            self._require_shapes()
        except (OSError, ValueError, KeyError, IndexError) as error:
            told = str(error)
            if isinstance(error, ValidationError):  # pydantic's own words go over several lines
                told = findings(error, dict.fromkeys(PolicyHeader.model_fields)).replace("\n", " ")
            raise DataError(
                f"policy is '{path}'; expected a policy file: an .npz of plain arrays with a JSON header `meta` "
                f"({type(error).__name__}: {told})."
            ) from error

    def _require_shapes(self) -> None:
        """Checks that each layer takes what the one before gives, and that everything else has the sizes of these."""
        numbers = {name: array.dtype.kind in "fiu" and np.isfinite(array).all() for name, array in self._arrays.items()}
        if not all(numbers.values()):
            raise ValueError(f"{[name for name, are in numbers.items() if not are]} are not all finite numbers")
        halves = [pair for pair in _PAIRS if (pair[0] in self._arrays) != (pair[1] in self._arrays)]
        if halves:
            raise ValueError(f"it has one of {' and '.join(halves[0])} without the other")
        if "obs_var" in self._arrays and (self._arrays["obs_var"] + self._header.epsilon <= 0).any():
            raise ValueError("obs_var is not above 0")
        weights = [weight for weight, _ in self._layers]
        if any(weight.ndim != 2 for weight in weights):
            raise ValueError("a weight is no matrix")
        inputs, hidden, actions = weights[0].shape[0], weights[-1].shape[0], weights[-1].shape[1]
        wanted: dict[str, tuple[int, ...]] = {
            "obs_mean": (inputs,),
            "obs_var": (inputs,),
            "log_std": (actions,),
            "log_std_b": (actions,),
        }
        wanted |= {"log_std_w": (hidden, actions), "act_low": (actions,), "act_high": (actions,)}
        wanted |= {f"b{i}": weight.shape[1:] for i, weight in enumerate(weights)}
        found = {"act_low": self._low, "act_high": self._high, **self._arrays}
        wrong = {n: found[n].shape for n, shape in wanted.items() if n in found and found[n].shape not in (shape, ())}
        chained = all(one.shape[1] == other.shape[0] for one, other in pairwise(weights))
        if wrong or not chained:
            raise ValueError(f"shapes do not fit each other: {wrong or [weight.shape for weight in weights]}")

    @property
    def has_gaussian(self) -> bool:
        """Whether it has a Gaussian of its own to draw from."""
        return "log_std" in self._arrays or "log_std_w" in self._arrays

    def act(
        self, observation: NDArray[np.float64], step: int, generator: np.random.Generator | None
    ) -> NDArray[np.float64]:
        """Returns the action (A,) at one observation.

        Args:
            observation: (O,).
            step: Steps since the episode's start; only policies with a time feature see it.
            generator: Draws from the policy's own Gaussian, which it must have; None gives its mean.
        """
        hidden = x = self._input(observation, step)
        for weight, bias in self._layers[:-1]:
            hidden = x = self._activate(_product(x, weight) + bias)
        mean = _product(x, self._output[0]) + self._output[1]
        if self._header.clip_mean:
            mean = np.clip(mean, -self._header.clip_mean, self._header.clip_mean)
        if generator is not None:
            mean = mean + np.exp(self._log_deviation(hidden)) * generator.standard_normal(mean.shape)
        if self._header.squash == "tanh":
            mean = self._low + (self._high - self._low) * (np.tanh(mean) + 1) / 2
        return np.asarray(mean, dtype=np.float64)

    def _input(self, observation: NDArray[np.float64], step: int) -> NDArray[np.float32]:
        header, x = self._header, np.asarray(observation, dtype=np.float64)
        if header.obs_slice is not None:
            x = x[slice(*header.obs_slice)]
        if header.pad_to is not None:
            x = np.pad(x, (0, header.pad_to - len(x)))
        if header.time_feature:
            x = np.append(x, 1 - step / header.max_steps)
        if "obs_mean" in self._arrays:
            scaled = (x - self._arrays["obs_mean"]) / np.sqrt(self._arrays["obs_var"] + header.epsilon)
            x = np.clip(scaled, -header.clip_obs, header.clip_obs)
        return x.astype(np.float32)

    def _activate(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._header.activation == "relu":
            return np.maximum(x, 0)
        # expm1 of the negative part alone: the positive part would overflow.
        return np.tanh(x) if self._header.activation == "tanh" else np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    def _log_deviation(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        if "log_std" in self._arrays:
            return np.asarray(self._arrays["log_std"])
        log_deviation = _product(hidden, self._arrays["log_std_w"]) + self._arrays["log_std_b"]
        return np.asarray(np.clip(log_deviation, -20, 2))


def _product(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns `x @ weight`, added up in one order.

    `@` asks OpenBLAS, whose order differs from processor to processor (0.3.30: with and without fused multiplications):
    the same recipe would give other data. 13 us instead of 8 for 256 x 256 weights.
    """
    return np.asarray(np.einsum("i,ij->j", x, weight))
