"""Accumulates layer scores over batches and devices, and picks the golden layer."""

from __future__ import annotations

import hashlib
from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lga_lightning.data import RequestBatches, load_requests
from lga_lightning.data.module import EditDataModule
from lga_lightning.errors import DataError
from lga_lightning.loading import load_tokenizer
from lga_lightning.locators import LGA, LayerLocator
from lga_lightning.metrics import LayerScores
from lga_lightning.module import SKIPPED, LGAModule, check_finite
from lga_lightning.report import draw_layers, print_attribution
from lga_lightning.results import ATTRIBUTION_FILE, Attribution, means_by_layer, versions

CHECKPOINT_FILE = "attribution.ckpt"
PICTURE_FILE = "layers.png"


class LayerAttribution(L.Callback):
    """Collects what :class:`LGAModule` finds out about each layer, and writes what came of it.

    At the end of ``fit`` it leaves ``attribution.json`` and ``layers.png`` in ``default_root_dir``, and on the way a
    checkpoint of the scores alone, ``attribution.ckpt``, from which ``--ckpt_path`` resumes: with any number of
    processes, any batch size, no request twice and none lost. For a module of your own see :class:`LayerProfile`.

    Args:
        checkpoint_every: Batches between two checkpoints; one is also written when the run is interrupted.

    Attributes:
        attribution: The result, once ``fit`` has ended.
    """

    def __init__(self, checkpoint_every: int = 20) -> None:
        if checkpoint_every < 1:
            raise ValueError(f"`checkpoint_every` must be at least 1, got {checkpoint_every}.")
        self.checkpoint_every = checkpoint_every
        self.scores = LayerScores()
        self.attribution: Attribution | None = None
        self._fingerprint = ""
        self._snapshot: dict[str, Tensor] = {}
