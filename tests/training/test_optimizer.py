from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig
from pipeline.training.optimizer import make_optimizer, set_learning_rate
from tests.training.tasks import MODEL


def test_only_matrices_that_multiply_are_decayed() -> None:
    model = TrajectoryTransformer(MODEL, TransitionLayout.plain(2, 1, 10))
    optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, rest = ({names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups)
    assert decayed == {
        "head.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.projection.weight",
        "blocks.0.mlp.expand.weight",
        "blocks.0.mlp.contract.weight",
    }
    assert decayed | rest == set(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
