"""Holds, on any machine, what a GPU must not do: tensors of the device "meta" have no data that could be read back."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Fails where an operator is given, or makes, a tensor of another device than "meta": a copy that is waited for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device == META, f"{function} met {value.device}"
        return result
