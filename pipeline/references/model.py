"""The Trajectory Transformer's forward pass in plain numpy, position by position: the oracle of `pipeline.models`."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.models.trajectory_transformer import TrajectoryTransformer

Floats = NDArray[np.float64]


def reference_logits(model: TrajectoryTransformer, tokens: list[int]) -> Floats:
    """Returns the (L, V) float64 logits of one window, computed from the model's weights alone."""
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    weights["position_embedding"] = model.position_embedding.detach().double().numpy()
    layout = model.layout
    rows = []
    for position, token in enumerate(tokens):
        dimension = position % layout.transition_dim
        stop = layout.transition_dim * layout.num_bins
        row = stop if token == layout.stop_token else dimension * layout.num_bins + token
        rows.append(weights["token_embedding.weight"][row] + weights["position_embedding"][position])
    x = np.array(rows)
    for index in range(model.config.layers):
        x = x + _attention(weights, f"blocks.{index}", model, x)
        x = x + _mlp(weights, f"blocks.{index}", x)
    x = _norm(weights, "norm", x)
    logits = []
    for position, hidden in enumerate(x):
        dimension = position % layout.transition_dim
        row_V = weights["head.weight"][dimension] @ hidden
        row_V[layout.bins[(dimension + 1) % layout.transition_dim] : layout.num_bins] = -np.inf
        logits.append(row_V)
    return np.array(logits)


def _linear(weights: dict[str, Floats], name: str, x: Floats) -> Floats:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: dict[str, Floats], name: str, x: Floats) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def _attention(weights: dict[str, Floats], block: str, model: TrajectoryTransformer, x: Floats) -> Floats:
    layout, width, heads = model.layout, model.config.width, model.config.heads
    head_width = width // heads
    qkv = _linear(weights, f"{block}.attention.qkv", _norm(weights, f"{block}.attention_norm", x))
    y = np.zeros_like(x)
    for query in range(len(x)):
        seen = [key for key in range(query + 1) if key % layout.transition_dim != layout.value]
        for head in range(heads):
            columns = slice(head * head_width, (head + 1) * head_width)
            q, k, v = (part[:, columns] for part in np.split(qkv, 3, axis=1))
            scores = np.array([q[query] @ k[key] for key in seen]) / math.sqrt(head_width)
            shares = np.exp(scores - scores.max())
            y[query, columns] = (shares / shares.sum()) @ v[seen]
    return _linear(weights, f"{block}.attention.projection", y)


def _mlp(weights: dict[str, Floats], block: str, x: Floats) -> Floats:
    inside = _linear(weights, f"{block}.mlp.expand", _norm(weights, f"{block}.mlp_norm", x))
    error_function = np.vectorize(math.erf)
    return _linear(weights, f"{block}.mlp.contract", inside * (1 + error_function(inside / math.sqrt(2))) / 2)
