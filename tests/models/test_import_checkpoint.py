"""Public weights give the logits of the public architecture, written here from its description."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import CheckpointError
from pipeline.models.config import ModelConfig
from pipeline.models.import_checkpoint import import_checkpoint
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout.plain(observation_dim=2, action_dim=1, num_bins=6)
CONFIG = ModelConfig(layers=2, heads=2, width=8, window_transitions=3, dropout=0.1)
LENGTH = 3 * 5 - 1


def public_state(config: ModelConfig = CONFIG, layout: TransitionLayout = LAYOUT) -> dict[str, Tensor]:
    """Random weights under the public names, with the buffers that the public files hold too."""
    torch.manual_seed(5)
    width, dim, bins = config.width, layout.transition_dim, layout.num_bins
    length = config.window_transitions * dim - 1
    state = {
        "tok_emb.weight": torch.randn(bins * dim + 1, width),
        "pos_emb": torch.randn(1, length, width),
        "ln_f.weight": torch.randn(width),
        "ln_f.bias": torch.randn(width),
        "head.weight": torch.randn(dim, bins + 1, width),
    }
    mask = torch.tril(torch.ones(length, length))
    mask[:, dim - 1 :: dim] = 0
    for block in (f"blocks.{index}" for index in range(config.layers)):
        state[f"{block}.attn.mask"] = mask.view(1, 1, length, length)
        for layer, shape in (
            ("ln1", (width,)),
            ("ln2", (width,)),
            ("attn.key", (width, width)),
            ("attn.query", (width, width)),
            ("attn.value", (width, width)),
            ("attn.proj", (width, width)),
            ("mlp.0", (4 * width, width)),
            ("mlp.2", (width, 4 * width)),
        ):
            state[f"{block}.{layer}.weight"] = torch.randn(shape)
            state[f"{block}.{layer}.bias"] = torch.randn(shape[0])
    return state


def public_logits(state: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """(L, 7): the public forward pass of one window, from the description in words."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (8,), state[f"{name}.weight"], state[f"{name}.bias"])

    rows = [30 if token == 6 else token + 6 * (position % 5) for position, token in enumerate(tokens)]
    x = state["tok_emb.weight"][rows] + state["pos_emb"][0, : len(tokens)]
    for block in ("blocks.0", "blocks.1"):
        h = norm(f"{block}.ln1", x)
        q, k, v = (linear(f"{block}.attn.{name}", h) for name in ("query", "key", "value"))
        heads = []
        for columns in (slice(0, 4), slice(4, 8)):
            scores = q[:, columns] @ k[:, columns].T / math.sqrt(4)
            allowed = state[f"{block}.attn.mask"][0, 0, : len(tokens), : len(tokens)]
            heads.append(torch.softmax(scores.masked_fill(allowed == 0, -torch.inf), -1) @ v[:, columns])
        x = x + linear(f"{block}.attn.proj", torch.cat(heads, 1))
        x = x + linear(f"{block}.mlp.2", functional.gelu(linear(f"{block}.mlp.0", norm(f"{block}.ln2", x))))
    x = norm("ln_f", x)
    return torch.stack([state["head.weight"][position % 5] @ row for position, row in enumerate(x)])


def test_imported_weights_give_the_public_logits(tmp_path: Path) -> None:
    state = public_state()
    torch.save(state, tmp_path / "state_49.pt")
    model = TrajectoryTransformer(CONFIG, LAYOUT).eval()
    model.load_state_dict(import_checkpoint(tmp_path / "state_49.pt", CONFIG, LAYOUT))
    tokens = [0, 5, 3, 2, 1, 4, 4, 0, 1, 5, 6, 6, 6, 6]
    ours = model(torch.tensor([tokens]))[0]
    assert torch.allclose(ours, public_logits(state, tokens), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (CONFIG.model_copy(update={"width": 16}), LAYOUT, r"has trajectory_transformer\.width 8; expected 16"),
        (CONFIG.model_copy(update={"layers": 3}), LAYOUT, r"has trajectory_transformer\.layers 2; expected 3"),
        (
            CONFIG.model_copy(update={"window_transitions": 4}),
            LAYOUT,
            r"has trajectory_transformer\.window_transitions 3; expected 4",
        ),
        (
            CONFIG.model_copy(update={"positions": "sinusoidal"}),
            LAYOUT,
            r"learned positions; expected trajectory_transformer\.positions sinusoidal",
        ),
        (CONFIG, TransitionLayout.plain(2, 1, 9), r"data\.num_bins 6; expected 9"),
        (CONFIG, TransitionLayout.plain(2, 2, 6), "tokens of a transition 5; expected 6"),
    ],
)
def test_weights_of_another_shape_are_refused(
    tmp_path: Path, config: ModelConfig, layout: TransitionLayout, message: str
) -> None:
    torch.save(public_state(), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(tmp_path / "state.pt", config, layout)


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    """The public state with other tensors, or without those that are None; `__` stands for a point."""
    state: dict[str, Tensor | None] = {**public_state(), **{key.replace("__", "."): t for key, t in changes.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(pos_emb=torch.zeros(LENGTH, 8)), r"pos_emb of shape \(14, 8\); expected .*3 dimensions"),
        (changed(head__weight=torch.zeros(0, 7, 8)), r"head\.weight of shape \(0, 7, 8\); expected"),
        (
            {name: tensor for name, tensor in public_state().items() if not name.startswith("blocks")},
            r"has trajectory_transformer\.layers 0; expected 2",
        ),
        (changed(blocks__1__mlp__2__bias=None, ln_f__bias=None), r"\(missing: ln_f\.bias, blocks\.1\.mlp\.2\.bias\)"),
        (changed(goal_emb=torch.zeros(1)), r"\(not known: goal_emb\)"),
        (
            changed(tok_emb__weight=torch.zeros(30, 8), extra=torch.zeros(1)),
            r"not known: extra; of another shape: tok_emb\.weight \(30, 8\) instead of \(31, 8\)",
        ),
        (
            {name: tensor for name, tensor in public_state().items() if "blocks.0" not in name},
            r"missing: blocks\.0\.ln1\.weight, .* and 10 more",
        ),
    ],
)
def test_missing_and_strange_tensors_are_told(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(tmp_path / "state.pt", CONFIG, LAYOUT)


def test_another_mask_is_refused(tmp_path: Path) -> None:
    state = public_state()
    state["blocks.1.attn.mask"] = torch.tril(torch.ones(1, 1, LENGTH, LENGTH))
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"another attention mask in blocks\.1"):
        import_checkpoint(tmp_path / "state.pt", CONFIG, LAYOUT)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for content in (b"no tensors here", b"", b"\x80\x02}q\x01(X\x01\x00\x00\x00\xffu.", b"\x80\x02a."):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read \(.+\)"):
            import_checkpoint(path, CONFIG, LAYOUT)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds list; expected a dict"):
        import_checkpoint(path, CONFIG, LAYOUT)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"has no 'pos_emb'; expected the state dict of .*It holds weight\."):
        import_checkpoint(path, CONFIG, LAYOUT)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"tok_emb.weight": Evil()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_checkpoint(tmp_path / "state.pt", CONFIG, LAYOUT)
    assert not (tmp_path / "ran").exists()
