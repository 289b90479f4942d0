"""Runs of ``LGAModule`` on a tiny model, by a Trainer that is quiet."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from transformers import PreTrainedTokenizerBase

from lga_lightning import RROME, EditMethod, LGAModule
from lga_lightning.locators.race import Round
from lga_lightning.locators.race_runner import EditRace
from tests.helpers.cli import FAST_METHOD
from tests.helpers.models import tiny_model


def trainer(folder: Path, *callbacks: L.Callback, **options: object) -> L.Trainer:
    """A trainer that leaves its results in a folder."""
    return L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        **options,
    )


def module(
    tokenizer: PreTrainedTokenizerBase, editor: EditMethod | None = None, layer: object = 1, **settings: object
) -> LGAModule:
    """A module with a tiny llama of its own."""
    editor = editor or RROME(**FAST_METHOD)
    return LGAModule(layer=layer, editor=editor, model=tiny_model("llama"), tokenizer=tokenizer, **settings)


def cut_off_in_round(number: int, monkeypatch: pytest.MonkeyPatch) -> list[Round]:
    """Interrupts a race in a round, once. The list holds the rounds that are begun, in that race and in later ones."""
    rounds: list[Round] = []
    edit = EditRace._edit

    def count(self: EditRace, round: Round, *arguments: object) -> None:
        rounds.append(round)
        if len(rounds) == number:
            raise KeyboardInterrupt
        edit(self, round, *arguments)

    monkeypatch.setattr(EditRace, "_edit", count)
    return rounds
