"""Activation checkpointing without training: blocks forget their activations, and run again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lga_lightning.exceptions import ModelError
from lga_lightning.models.partial_passes import covered


def enable_checkpointing_(model: PreTrainedModel) -> None:
    """Let a model's layers forget their activations, and run again on the way back.

    Args:
        model: A language model.

    Raises:
        ModelError: If transformers does not support it for the model.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(
            f"Activation checkpointing is not to be had for this model: {error} Leave out `activation_checkpointing`, and take smaller "
            "batches (--data.batch_size) if memory is short."
        ) from error


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, layers for which checkpointing is enabled do so in eval mode too, where transformers leaves it.

    Passes that continue a key-value cache are run as ever: a second run would write to it again.

    Args:
        model: A model, with checkpointing enabled or not.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                stack.enter_context(covered(module, partial(_run, module.forward)))
        yield


def _run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or any(isinstance(given, Cache) for given in (*args, *kwargs.values())):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
