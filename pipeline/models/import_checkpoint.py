"""Weights of the original public code (jannerm/trajectory-transformer, `state_*.pt`) under the names of ours.

Both compute the same function; only names differ, and that queries, keys and values are one matrix here. Files are read
with `weights_only`, so nothing in them is ever executed.
"""

import pickle
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
    for name in ("tok_emb.weight", "pos_emb", "head.weight", "ln_f.weight"):
        if name not in theirs:
            raise CheckpointError(
                f"{path} has no {name!r}; expected the state dict of the public Trajectory Transformer. "
                f"It holds {sorted(theirs)[:3]}..."
            )
    _require_shape(path, theirs, config, layout)
    return _renamed(theirs, config)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}); expected a file of tensors that torch.save wrote."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds {type(state).__name__}; expected a dict of names and tensors.")
    return state


def _require_shape(path: Path, theirs: dict[str, Tensor], config: ModelConfig, layout: TransitionLayout) -> None:
    heads, vocabulary, width = theirs["head.weight"].shape
    layers = 1 + max(int(match[1]) for name in theirs if (match := re.match(r"blocks\.(\d+)\.", name)))
    inputs = theirs["pos_emb"].shape[1]
    found = {
        "model.width": (width, config.width),
        "model.layers": (layers, config.layers),
        "tokens of a transition": (heads, layout.transition_dim),
        "data.num_bins": (vocabulary - 1, layout.num_bins),
        "model.window_transitions": ((inputs + 1) / heads, config.window_transitions),
    }
    for what, (there, here) in found.items():
        if there != here:
            raise CheckpointError(f"{path} has {what} {there:g}; expected {here}, as configured. Set it to {there:g}.")
    mask_LL = attention_mask(inputs, layout)
    for name, tensor in theirs.items():
        if name.endswith("attn.mask") and not torch.equal(tensor.squeeze().bool(), mask_LL):
            raise CheckpointError(f"{path} has another attention mask in {name}; expected a causal one without values.")


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
