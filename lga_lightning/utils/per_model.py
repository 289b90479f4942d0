"""What was found out about a model, kept as long as the model lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

Value = TypeVar("Value")


class PerModel(WeakKeyDictionary["nn.Module", Value]):
    """A table by model. It is empty where it is unpickled (another process, say), since the models there are others.

    Example:
        >>> import pickle
        >>> from torch import nn
        >>> model = nn.Identity()
        >>> table = PerModel({model: 3.5})
        >>> table[model], len(pickle.loads(pickle.dumps(table)))
        (3.5, 0)
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return PerModel, ()
