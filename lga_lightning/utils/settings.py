"""Checks of settings."""

from __future__ import annotations

from lga_lightning.exceptions import SettingError


def check_at_least_one(**numbers: int) -> None:
    """Refuse a number below 1.

    Args:
        numbers: The numbers, by the names that a user knows them by.

    Raises:
        SettingError: Says which.
    """
    for name, number in numbers.items():
        if number < 1:
            raise SettingError(f"`{name}` must be at least 1, got {number}.")


def check_above_zero(**numbers: float | None) -> None:
    """Refuse a number that is not above 0; None is not given, and passes.

    Args:
        numbers: The numbers, by the names that a user knows them by.

    Raises:
        SettingError: Says which.
    """
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise SettingError(f"`{name}` must be above 0, got {number}.")
