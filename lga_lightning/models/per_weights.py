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

_SEEN: PerModel[tuple[int, tuple[bytes, ...]]] = (
    PerModel()
)  # how often its weights were seen to be others, and some of them
_KEPT: PerModel[int] = PerModel()


class PerWeights(PerModel[Value]):
    """A table by model, without what was found of other weights than it has by now, after a training, say."""

    def __init__(self) -> None:
        super().__init__()
        self._found: PerModel[int] = PerModel()

    def __setitem__(self, model: nn.Module, value: Value) -> None:
        self._found[model] = _times_changed(model)
        super().__setitem__(model, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return PerWeights, ()

    def of(self, model: nn.Module, make: Callable[[], Value]) -> Value:
        """The entry of a model; with a sharded model a collective operation.

        Args:
            model: The model.
            make: Makes the entry, where there is none or its weights have changed since, otherwise than by edits (:func:`edited`).
        """
        if self._found.get(model) != _times_changed(model):
            self[model] = make()
        return self[model]


def _times_changed(model: nn.Module) -> int:
    times, seen = _SEEN.get(model, (0, ()))
    if not _KEPT.get(model):
        sample = weights_sample(model)
        if of_any(model, [0] if sample != seen else []):
            times += 1
            _SEEN[model] = times, sample
    return times


@contextmanager
def edited(model: nn.Module) -> Iterator[None]:
    """Within the block weights are edited for good, or an edit is taken out: what was found of them before goes on to count.

    Args:
        model: The model.
    """
    times, seen = _SEEN.get(model, (0, ()))
    as_seen = seen == weights_sample(model)
    yield
    if as_seen:
        _SEEN[model] = times, weights_sample(model)


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
