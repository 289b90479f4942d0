"""What was found out about a model's weights, kept as long as they are what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lga_lightning.models.storage import of_any
from lga_lightning.models.weights import weights_sample
from lga_lightning.utils.per_model import PerModel, Value

if TYPE_CHECKING:
    from torch import nn

_KEPT: PerModel[int] = PerModel()


class PerWeights(PerModel[Value]):
    """A table by model, without what was found of other weights than it has by now, after a training, say."""

    def __init__(self) -> None:
        super().__init__()
        self._samples: PerModel[tuple[bytes, ...]] = PerModel()

    def __setitem__(self, model: nn.Module, value: Value) -> None:
        self._samples[model] = weights_sample(model)
        super().__setitem__(model, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return PerWeights, ()

    def of(self, model: nn.Module, make: Callable[[], Value]) -> Value:
        """The entry of a model; with a sharded model a collective operation.

        Args:
            model: The model.
            make: Makes the entry, where there is none or its weights have changed for good.
        """
        if model in self and not _KEPT.get(model):
            changed = self._samples.get(model) != weights_sample(model)
            if of_any(model, [0] if changed else []):
                del self[model]
        if model not in self:
            self[model] = make()
        return self[model]


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Within the block, what was found of a model's weights counts, though others are in their place for the time being.

    Args:
        model: The model.
    """
    _KEPT[model] = _KEPT.get(model, 0) + 1
    try:
        yield
    finally:
        _KEPT[model] -= 1
