"""The checkpoint of ``fit``: whether a file is one, and whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from lga_lightning.exceptions import DataError

CHECKPOINT_FILE = "attribution.ckpt"
FINGERPRINT = "lga_scores_of"


def check_checkpoint(path: str | Path) -> None:
    """Refuse a file that is no checkpoint of ``fit``, or has another byte than was written.

    Args:
        path: The file.

    Raises:
        DataError: Says what is wrong with it.
    """
    if not Path(path).is_file():
        raise DataError(
            f"There is no checkpoint at {str(path)!r}. `lga fit` leaves {CHECKPOINT_FILE} in --trainer.default_root_dir."
        )
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()  # which knows the checksums that torch does not look at
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} is not as it was written")
        content = torch.load(path, map_location="meta", weights_only=True)
    except (
        Exception
    ) as error:  # whatever its readers say of a broken file: KeyError, RuntimeError, UnpicklingError, ...
        raise DataError(
            f"{str(path)!r} is not a checkpoint of `lga fit`, or it is broken ({type(error).__name__}: {str(error)[:200]}). Start "
            "anew without it (--ckpt_path), or delete it."
        ) from error
    if not isinstance(content, dict) or FINGERPRINT not in content:
        raise another_checkpoint(path)


def another_checkpoint(path: str | Path) -> DataError:
    """The error for a checkpoint of something else.

    Args:
        path: The file.
    """
    return DataError(
        f"{str(path)!r} is not a checkpoint of this `fit`, which leaves {CHECKPOINT_FILE} in the trainer's default_root_dir. "
        "Resume from that, or start anew without a checkpoint."
    )
