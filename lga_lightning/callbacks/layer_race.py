"""The race at the end of ``fit``: among whom, and the file from which it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lga_lightning.callbacks.shares import share_of
from lga_lightning.locators.race import RaceSettings
from lga_lightning.locators.race_runner import EditRace, expected_scores
from lga_lightning.results.evidence import LocatorEvidence

RACE_FILE = "race.safetensors"
BATCH_SIZE = 8  # of edits, where the data does not say


def edits_before(trainer: L.Trainer) -> LocatorEvidence | None:
    """The edits that an earlier run left in the folder; a collective operation, since other machines may lack the file.

    Args:
        trainer: The trainer.

    Raises:
        DataError: If the file is broken.
    """
    path = Path(trainer.default_root_dir) / RACE_FILE
    return trainer.strategy.broadcast(LocatorEvidence.load(path) if trainer.is_global_zero and path.is_file() else None)


def edits_fingerprint(module: L.LightningModule) -> dict[str, str]:
    """Everything that the scores of a race's edits depend on, by name: neither the locator nor what ends the race.

    Args:
        module: The module that scores layers.
    """
    llm, _ = module.language_model
    scores, editor = module.fingerprint(), module.editor.settings_by_layer(llm)
    return {
        **{name: scores[name] for name in ("model", "dtype", "weights", "requests")},
        **{f"editor's {name}": str(setting) for name, setting in editor.items()},
    }


def race_layers(
    trainer: L.Trainer,
    module: L.LightningModule,
    settings: RaceSettings,
    collected: Sequence[Tensor],
    before: LocatorEvidence | None = None,
    show: bool = True,
) -> EditRace:
    """Let the layers race on the requests that count, and keep what was edited; a collective operation.

    Args:
        trainer: The trainer.
        module: The module that has scored the layers.
        settings: When the race ends.
        collected: Index [N], evidence [N, C, L] and status [N] of all processes' requests.
        before: The edits of an earlier run, on any of the requests.
        show: Whether to show a progress bar, where the trainer has one.

    Returns:
        The race, once it is over.
    """
    index, values, status = collected
    rows = index[status == 0].tolist()
    requests = [module.data.requests[row] for row in rows]
    expected = expected_scores(module.locator, values[status == 0, 0])
    batch_size = getattr(trainer.datamodule or trainer.train_dataloader, "batch_size", None) or BATCH_SIZE
    llm, tokenizer = module.language_model
    race = EditRace(llm, tokenizer, requests, module.editor, expected, settings, batch_size)
    others: dict[int, Tensor] = {}  # edits of requests that do not count in this run
    if before is not None:
        edits = dict(zip(before.index.tolist(), before.values, strict=True))
        others = {row: edits[row] for row in edits.keys() - set(rows)}
        known = [place for place, row in enumerate(rows) if row in edits]
        if known:
            race.take_up(known, torch.stack([edits[rows[place]] for place in known]), before.seconds)
    path, made_with = Path(trainer.default_root_dir) / RACE_FILE, edits_fingerprint(module)

    def save() -> None:
        if trainer.is_global_zero:
            edits = others | {rows[place]: race.values[place] for place in race.edited}
            index, status = torch.tensor(list(edits)), torch.zeros(len(edits), dtype=torch.long)
            LocatorEvidence(index, torch.stack([*edits.values()]), status, race.seconds, made_with).save(path)

    bar = trainer.progress_bar_callback
    show = show and trainer.is_global_zero and bar is not None
    if bar is not None:  # it ends here: a bar of rich holds the terminal as long as it lasts
        bar.on_train_end(trainer, module)
        bar.teardown(trainer, module, "fit")
    race.run(*share_of(trainer), module.device, show, save)
    return race
