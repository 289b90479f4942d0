"""Where a command without a Trainer runs."""

from __future__ import annotations

import torch

from lga_lightning.exceptions import SettingError


def device_of(name: str) -> torch.device:
    """The device of a name; a GPU of CUDA, where there is one, for ``auto``.

    Args:
        name: The name.

    Raises:
        SettingError: If there is no such device, or it has no float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] == "mps":
        raise SettingError(f"The device {name!r} has no float64, in which edits are solved. Take --device cpu.")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(f"There is no device {name!r} (cpu, cuda, cuda:1, ...): {reason}") from error
