"""What a pool does about actors that do not start; its work, losses and limits: test_pool.py and test_collect.py."""

import os
from typing import Any

import pytest

from pipeline.distributed.actor_pool import ActorPool, Limit, Terms
from pipeline.errors import ClusterError

pytestmark = pytest.mark.ray

TERMS = Terms(1, 0.0, 2, Limit("a.start", 600.0), Limit("a.call", 600.0), advice="Wait.")


class NeverStarts:
    def __init__(self) -> None:
        os._exit(1)

    def ready(self) -> bool:
        return True


class Endless:
    """Work that is never done."""

    slots = 1

    def num_actors(self) -> int:
        return 1

    def is_done(self) -> bool:
        return False

    def show(self, *_: Any) -> None:
        pass


def test_actors_that_end_before_they_answer_are_not_started_for_ever(ray_session: None) -> None:
    told = pytest.raises(ClusterError, match=r"^2 actors in a row ended before they answered; expected them to start")
    with told, ActorPool(NeverStarts, (), TERMS) as pool:
        pool.run(Endless())
