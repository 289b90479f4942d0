"""Where a command without a Trainer runs."""

from __future__ import annotations

import torch

from lga_lightning.exceptions import SettingError


def device_of(name: str) -> torch.device:
    """The device of a name; a GPU, where there is one, for ``auto``.

    Args:
        name: The name.

    Raises:
        SettingError: If there is no such device.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"There is no device {name!r} (cpu, cuda, cuda:1, mps, ...): {reason}") from error
