"""Weights of the original public code (jannerm/trajectory-transformer, `state_*.pt`) under the names of ours.

Both compute the same function; only names differ, and that queries, keys and values are one matrix here. Files are read
with `weights_only`, so nothing in them is ever executed.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import attention_mask
from pipeline.tokens.layout import TransitionLayout

_BLOCK_NAMES = {
    "ln1": "attention_norm",
    "ln2": "mlp_norm",
    "attn.proj": "attention.projection",
    "mlp.0": "mlp.expand",
    "mlp.2": "mlp.contract",
}
_NAMES = {"tok_emb.weight": "token_embedding.weight", "ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}

_LISTED = 6
"""Names that an error lists."""


def import_checkpoint(path: Path, config: ModelConfig, layout: TransitionLayout) -> dict[str, Tensor]:
    """Returns the state dict for `TrajectoryTransformer(config, layout)` that the public file holds.

    The number of heads is not in the file and must be the one that it was trained with (4 in the released settings).

    Args:
        path: A `state_*.pt` of the public code.
        config: Shape of the model that the weights are for.
        layout: Its tokens.

    Raises:
        CheckpointError: The file is not such a state dict, or is of another shape.
    """
    theirs = _read(path)
    _require_settings(path, theirs, config, layout)
    _require_tensors(path, theirs, config, layout)
    return _renamed(theirs, config)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file, or one of another kind, raises whatever the reader stumbles over: IndexError, KeyError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}); expected a file of tensors that torch.save wrote."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds {type(state).__name__}; expected a dict of names and tensors.")
    return state


def _require_settings(path: Path, theirs: dict[str, Tensor], config: ModelConfig, layout: TransitionLayout) -> None:
    """Checks the sizes that have settings of ours, to tell a difference in their words."""
    for name in ("pos_emb", "head.weight"):
        if name not in theirs or theirs[name].dim() != 3 or not theirs[name].numel():
            there = f"{name} of shape {tuple(theirs[name].shape)}" if name in theirs else f"no {name!r}"
            raise CheckpointError(
                f"{path} has {there}; expected the state dict of the public Trajectory Transformer, where it has 3 "
                f"dimensions. It holds {_listed(sorted(theirs))}."
            )
    heads, vocabulary, width = theirs["head.weight"].shape
    layers = 1 + max((int(match[1]) for name in theirs if (match := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    found = {
        "trajectory_transformer.width": (width, config.width),
        "trajectory_transformer.layers": (layers, config.layers),
        "tokens of a transition": (heads, layout.transition_dim),
        "data.num_bins": (vocabulary - 1, layout.num_bins),
        "trajectory_transformer.window_transitions": (
            (theirs["pos_emb"].shape[1] + 1) / heads,
            config.window_transitions,
        ),
    }
    for what, (theirs_has, ours) in found.items():
        if theirs_has != ours:
            raise CheckpointError(
                f"{path} has {what} {theirs_has:g}; expected {ours}, as configured. Set it to {theirs_has:g}."
            )
    if config.positions != "learned":
        raise CheckpointError(
            f"{path} has learned positions; expected trajectory_transformer.positions {config.positions}, as "
            "configured. Set it to learned."
        )


def _require_tensors(path: Path, theirs: dict[str, Tensor], config: ModelConfig, layout: TransitionLayout) -> None:
    """Checks that all tensors of such a model are there, in their shapes, and no others."""
    masks = {f"blocks.{index}.attn.mask" for index in range(config.layers)}
    shapes = _shapes(config, layout)
    wrong = {
        "missing": [name for name in shapes if name not in theirs],
        "not known": sorted(theirs.keys() - shapes.keys() - masks),
        "of another shape": [
            f"{name} {tuple(theirs[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in theirs and theirs[name].shape != shape
        ],
    }
    told = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong.items() if names)
    if told:
        raise CheckpointError(
            f"{path} holds other tensors than the public Trajectory Transformer of that size ({told}); expected those "
            "and no others. Give the state_*.pt of a model without extensions."
        )
    mask_LL = attention_mask(theirs["pos_emb"].shape[1], layout)
    for name in masks & theirs.keys():
        if not torch.equal(theirs[name].squeeze().bool(), mask_LL):
            raise CheckpointError(f"{path} has another attention mask in {name}; expected a causal one without values.")


def _shapes(config: ModelConfig, layout: TransitionLayout) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of the public model."""
    width, dim, bins = config.width, layout.transition_dim, layout.num_bins
    shapes: dict[str, tuple[int, ...]] = {
        "tok_emb.weight": (dim * bins + 1, width),
        "pos_emb": (1, config.window_transitions * dim - 1, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
        "head.weight": (dim, bins + 1, width),
    }
    layers = {"ln1": (width,), "ln2": (width,), "mlp.0": (4 * width, width), "mlp.2": (width, 4 * width)}
    layers |= {f"attn.{name}": (width, width) for name in ("query", "key", "value", "proj")}
    for index in range(config.layers):
        for layer, shape in layers.items():
            shapes[f"blocks.{index}.{layer}.weight"] = shape
            shapes[f"blocks.{index}.{layer}.bias"] = shape[:1]
    return shapes


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _renamed(theirs: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    ours = {name: theirs[public] for public, name in _NAMES.items()}
    ours["position_embedding"] = theirs["pos_emb"][0]
    ours["head.weight"] = theirs["head.weight"]
    for index in range(config.layers):
        block = f"blocks.{index}"
        for part in ("weight", "bias"):
            fused = [theirs[f"{block}.attn.{name}.{part}"] for name in ("query", "key", "value")]
            ours[f"{block}.attention.qkv.{part}"] = torch.cat(fused)
            for public, name in _BLOCK_NAMES.items():
                ours[f"{block}.{name}.{part}"] = theirs[f"{block}.{public}.{part}"]
    return ours
