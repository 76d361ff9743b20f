"""What of an environment departs from all that is known of the data's: what is told, and what cannot be right.

Shape letters: C columns of observations or of actions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.manifest import Manifest
from pipeline.data.spaces import Spaces

_THE_SAME = (
    "observation_keys",
    "observation_sizes",
    "action_kind",
    "action_shape",
    "action_choices",
    "action_start",
)
"""Fields of the spaces without which a number means something else."""

_SETTINGS = {"additional_wrappers": "wrappers"}
"""What the settings call a part of a specification, where it has another name."""

_MARGIN = 1e-6
"""Relative: bounds of float32 may come back as float64."""


@dataclass(frozen=True)
class _Spans:
    """From where to where each of some columns goes, infinite where it has no bound.

    Attributes:
        names: C of them.
        low, high: (C,).
    """

    names: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def beyond(self, other: "_Spans") -> NDArray[np.bool_]:
        """Returns (C,) whether a column goes beyond the same one of `other`."""
        below = self.low < other.low - _MARGIN * np.maximum(1, np.abs(other.low))
        return np.asarray(below | (self.high > other.high + _MARGIN * np.maximum(1, np.abs(other.high))))

    def says(self, columns: NDArray[np.bool_], verb: str, data: "_Spans") -> str:
        """Returns in words where the first of `columns` goes here and in the data, and how many there are more."""
        first, more = int(np.flatnonzero(columns)[0]), int(columns.sum()) - 1
        others = f" (and {more} more column{'s'[: more != 1]})" if more else ""
        return f"{self.names[first]}{others} {verb} {self._span(first)}, in the data {data._span(first)}"

    def _span(self, column: int) -> str:
        return f"from {self.low[column]:g} to {self.high[column]:g}"


def specification(environment_spec: Any) -> dict[str, Any]:
    """Returns what a source records of its environment, of one that is there; see `SourceRecord.environment`."""
    return {
        "id": environment_spec.id,
        "max_episode_steps": environment_spec.max_episode_steps,
        "kwargs": environment_spec.kwargs,
        "additional_wrappers": [vars(wrapper) for wrapper in environment_spec.additional_wrappers],
    }


def impossible(environment: Spaces, data: Spaces) -> list[str]:
    """Returns in words why a method of the data cannot act in an environment; [] where it can."""
    found = [
        f"{name} is {getattr(environment, name)}, in the data {getattr(data, name)}"
        for name in _THE_SAME
        if getattr(environment, name) != getattr(data, name)
    ]
    if found:
        return found
    found += _other_states(environment, data)
    own, theirs = _own_actions(environment), _action_bounds(data)
    if theirs and (beyond := theirs.beyond(own)).any():
        found.append(own.says(beyond, "goes", theirs))
    return found


def departures(own: Mapping[str, Any], spaces: Spaces, manifest: Manifest) -> list[str]:
    """Returns in words what differs from the data's environment and may be meant so.

    Args:
        own: The environment's, as `specification` gives it.
        spaces: The environment's, of which nothing is impossible.
        manifest: Of the data; what no data set of it tells is not looked at.
    """
    recorded = [source.environment for source in manifest.sources if source.environment]
    told = [line for one in recorded for line in _other_environment(own, one)]
    if not any(one.get("max_episode_steps") for one in recorded):
        told += _longer_episodes(own, manifest)
    return list(dict.fromkeys([*told, *_other_actions(spaces, manifest), *_other_observations(spaces, manifest)]))


def _other_environment(own: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    return [
        f"environment.{_SETTINGS.get(name, name)} is {ours!r}, but the data was collected with {theirs!r}: evaluation "
        "will be in another environment than the data's."
        for name in own
        if recorded.get(name) is not None and (ours := _plain(own[name])) != (theirs := _plain(recorded[name]))
    ]


def _longer_episodes(own: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """Returns that the data's episodes go on where the environment's end, which says that they had another limit."""
    limit, longest = own["max_episode_steps"], manifest.statistics.longest_episode
    if limit is None or longest <= limit:
        return []
    return [
        f"environment.max_episode_steps is {limit}, but the data has episodes of up to {longest} steps: returns of the "
        "two cannot be compared."
    ]


def _plain(value: Any) -> Any:
    """Returns a part of a specification as a manifest has it; how an environment is drawn changes nothing."""
    plain = json.loads(json.dumps(value, default=str))
    return {name: part for name, part in plain.items() if name != "render_mode"} if isinstance(plain, dict) else plain


def _other_actions(environment: Spaces, manifest: Manifest) -> list[str]:
    data, told = manifest.spaces, []
    if environment.has_whole_actions != data.has_whole_actions:
        told.append(
            f"the environment takes actions of {environment.action_dtype}, the data has them as {data.action_dtype}: "
            "what is executed is the nearest that the environment has."
        )
    if environment.action_choices is not None:
        return told
    own, theirs, held = _own_actions(environment), _action_bounds(data), _held(manifest, data.action_names)
    if theirs and (wider := own.beyond(theirs)).any():
        told.append(
            f"{own.says(wider, 'goes', theirs)}: methods act in the data's numbers as they are, the row random in the "
            "environment's own. If a wrapper scaled the data's actions, name it in environment.wrappers, for example "
            f"[{{name: RescaleAction, kwargs: {{min_action: {theirs.low[0]:g}, max_action: {theirs.high[0]:g}}}}}]."
        )
    elif not theirs and (beyond := held.beyond(own)).any():
        told.append(f"{own.says(beyond, 'goes', held)}: what is executed is the nearest that the environment has.")
    return told


def _other_observations(environment: Spaces, manifest: Manifest) -> list[str]:
    own, theirs = _observation_bounds(environment), _observation_bounds(manifest.spaces)
    assert own is not None, "an environment has its own bounds, infinite ones perhaps"
    other = theirs or _held(manifest, environment.observation_names)
    differing = other.beyond(own) | own.beyond(other) if theirs else other.beyond(own)
    if not differing.any():
        return []
    return [f"{own.says(differing, 'goes', other)}: an observation may mean something else there."]


def _other_states(environment: Spaces, data: Spaces) -> list[str]:
    """Returns what differs of columns that name a state; nothing where the data does not say which do."""
    if data.observation_states is None or environment.observation_states is None:
        return []
    sides = zip(environment.observation_names, environment.observation_states, data.observation_states, strict=True)
    return [
        f"{name} has {_told_states(ours)}, in the data {_told_states(theirs)}"
        for name, ours, theirs in sides
        if ours != theirs
    ]


def _told_states(states: tuple[int, int] | None) -> str:
    return "numbers" if states is None else f"the states {states[0]} to {states[0] + states[1] - 1}"


def _own_actions(environment: Spaces) -> _Spans:
    """Returns the bounds of an environment's continuous actions, which has none where it names none."""
    endless = np.full(environment.action_dim, np.inf)
    return _action_bounds(environment) or _Spans(environment.action_names, -endless, endless)


def _action_bounds(spaces: Spaces) -> _Spans | None:
    if spaces.action_low is None or spaces.action_high is None:
        return None
    return _Spans(spaces.action_names, np.array(spaces.action_low), np.array(spaces.action_high))


def _observation_bounds(spaces: Spaces) -> _Spans | None:
    if spaces.observation_low is None or spaces.observation_high is None:
        return None
    low = [-np.inf if bound is None else bound for bound in spaces.observation_low]
    high = [np.inf if bound is None else bound for bound in spaces.observation_high]
    return _Spans(spaces.observation_names, np.array(low), np.array(high))


def _held(manifest: Manifest, names: tuple[str, ...]) -> _Spans:
    """Returns from where to where some columns go in the data."""
    columns = {dimension.name: dimension for dimension in manifest.statistics.dimensions}
    low, high = ([getattr(columns[name], end) for name in names] for end in ("minimum", "maximum"))
    return _Spans(names, np.array(low), np.array(high))
