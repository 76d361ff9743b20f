"""The Decision Transformer: a GPT over steps, asked for a return (Chen et al. 2021, arXiv 2106.01345).

Without its return tokens it is the Transformer of behaviour cloning. It maps observations, actions and returns to
actions and nothing else: the loss and acting are in `pipeline.methods`.

Shape letters: B batch, T steps, O observation_dim, A action_dim, C choices, W width, P tokens of a step, L = P T.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pipeline.data.spaces import Spaces
from pipeline.errors import ConfigError
from pipeline.models.actions import ActionEmbedding, ActionHead
from pipeline.models.block import Block, BlockShape
from pipeline.models.dropout import Dropout

INITIAL_DEVIATION = 0.02


class DecisionTransformerShape(BlockShape, Protocol):
    """What the network is built from: a block's shape, and these numbers, all at least 1.

    `layers`: blocks. `context_steps`: the longest input. `max_episode_steps`: rows of the table over the steps of an
    episode.
    """

    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def context_steps(self) -> int: ...  # noqa: D102
    @property
    def max_episode_steps(self) -> int: ...  # noqa: D102


class DecisionTransformer(nn.Module):
    """Predicts the action of each step from what came before it and the return that is still to come.

    A step is the tokens return-to-go, observation, action (P = 3), or the last two alone (P = 2). To each of them the
    same row of a table over the steps of the episode is added; then come a norm, dropout, and pre-norm blocks whose
    MLP is a ReLU's. The action of a step is read at the position of its observation.

    Attention is causal and there is no other mask: windows shorter than the longest of a batch are filled up on the
    RIGHT, so that no real position can see what fills. What is predicted there means nothing and is for the loss to
    leave out. What fills must be finite, and a valid choice where actions are discrete.

    Source: paper section 3 and its released gym code. Deviations: the heads for the next observation and return, whose
    outputs are never trained, are left out, as is the backbone's unused word table; windows are filled up on the left
    there, behind a mask; and the last block leaves out the positions whose output nobody reads.

    Args:
        shape: Depth, width, heads, dropout, and the longest input and episode, in steps (3, 128, 1, 0.1, 20 and 1000
            at the paper's hopper).
        spaces: Columns of observations; kind, columns and bounds of actions.
        observation_mean: (O,) of the training data.
        observation_deviation: (O,), above 0: what observations are divided by. Both are stored with the weights.
        return_scale: What returns are divided by, above 0 (1000 in the paper's locomotion, 10 in Reacher).
        conditions_on_return: Whether there are return tokens.
    """

    observation_mean: Tensor
    observation_deviation: Tensor
    mask: Tensor

    def __init__(
        self,
        shape: DecisionTransformerShape,
        spaces: Spaces,
        observation_mean: ArrayLike,
        observation_deviation: ArrayLike,
        return_scale: float,
        conditions_on_return: bool,
    ) -> None:
        super().__init__()
        self.context_steps = shape.context_steps
        self.return_scale = return_scale
        self.conditions_on_return = conditions_on_return
        self.step_tokens = 3 if conditions_on_return else 2
        scale = {"observation_mean": observation_mean, "observation_deviation": observation_deviation}
        for name, numbers_O in scale.items():
            self.register_buffer(name, torch.tensor(np.asarray(numbers_O), dtype=torch.float32))
        if conditions_on_return:
            self.return_embedding = nn.Linear(1, shape.width)
        self.observation_embedding = nn.Linear(spaces.observation_dim, shape.width)
        self.action_embedding = ActionEmbedding(spaces, shape.width)
        self.step_embedding = nn.Embedding(shape.max_episode_steps, shape.width)
        self.embedding_norm = nn.LayerNorm(shape.width)
        self.embedding_dropout = Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape, "relu") for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.action_head = ActionHead(spaces, shape.width)
        mask_LL = torch.ones(2 * (self.step_tokens * shape.context_steps,), dtype=torch.bool).tril()
        self.register_buffer("mask", mask_LL, persistent=False)
        self._initialise_blocks()

    def _initialise_blocks(self) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(
        self, observations_BTO: Tensor, actions_BTA: Tensor, returns_to_go_BT: Tensor | None, timesteps_BT: Tensor
    ) -> Tensor:
        """Returns (B, T, A) actions in the space's unit, or (B, T, C) logits, one for each step.

        Args:
            observations_BTO: As the environment gives them.
            actions_BTA: In the space's unit, or indices of choices; an action is seen from the step after its own on.
            returns_to_go_BT: Rewards from each step on, that step's included, in the environment's unit; None if and
                only if the network does not condition on them.
            timesteps_BT: Steps of the episode, int64 from 0; those beyond the table take its last row.

        Raises:
            ConfigError: T is beyond the context.
        """
        x_BLW = self._tokens(observations_BTO, actions_BTA, returns_to_go_BT, timesteps_BT)
        return self._predicted(x_BLW, slice(self.step_tokens - 2, None, self.step_tokens))

    def act(
        self, observations_BTO: Tensor, actions_BTA: Tensor, returns_to_go_BT: Tensor | None, timesteps_BT: Tensor
    ) -> Tensor:
        """Returns the last step of what `forward` returns, (B, A) or (B, C), at a lower cost.

        Arguments and errors are those of `forward`. The last action is not looked at, only its shape: give zeros.
        """
        x_BLW = self._tokens(observations_BTO, actions_BTA, returns_to_go_BT, timesteps_BT)[:, :-1]
        return self._predicted(x_BLW, slice(-1, None))[:, 0]

    def _tokens(self, observations: Tensor, actions: Tensor, returns: Tensor | None, timesteps: Tensor) -> Tensor:
        """Returns (B, L, W), embedded and normed."""
        if observations.shape[1] > self.context_steps:
            raise ConfigError(
                f"observations has {observations.shape[1]} steps; expected at most {self.context_steps}. "
                "Set context_steps higher and train again, or give a shorter window."
            )
        assert (returns is not None) == self.conditions_on_return, "returns_to_go goes with conditions_on_return"
        normal = (observations - self.observation_mean) / self.observation_deviation
        parts = [self.observation_embedding(normal), self.action_embedding(actions)]
        if returns is not None:
            parts.insert(0, self.return_embedding(returns[..., None] / self.return_scale))
        rows_BTW = self.step_embedding(timesteps.clamp(max=self.step_embedding.num_embeddings - 1))
        x_BTPW = torch.stack(parts, dim=2) + rows_BTW[:, :, None]
        tokens: Tensor = self.embedding_dropout(self.embedding_norm(x_BTPW.flatten(1, 2)))
        return tokens

    def _predicted(self, x_BLW: Tensor, queries: slice) -> Tensor:
        """Returns what the head says at the positions `queries`, the only ones that the last block computes.

        The others were 15 to 20 % of a training step (the paper's hopper model, batch 64, one or two cores).
        """
        mask_LL = self.mask[: x_BLW.shape[1], : x_BLW.shape[1]]
        blocks = cast(Sequence[Block], self.blocks)
        for block in blocks[:-1]:
            x_BLW = block(x_BLW, mask_LL)
        x_BQW = blocks[-1].at(x_BLW, queries, mask_LL[queries])
        predicted: Tensor = self.action_head(self.norm(x_BQW))
        return predicted
