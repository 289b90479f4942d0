"""Checks of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lga_lightning.exceptions import SettingError

if TYPE_CHECKING:
    from typing_extensions import Self


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


class ShowsSettings:
    """An object whose repr is the call that made it: the name of its class, and the settings that it was given.

    Example:
        >>> class Method(ShowsSettings):
        ...     def __init__(self, steps=25, text="sampled"):
        ...         self.steps = steps
        >>> Method(), Method(12, text="identity")
        (Method(), Method(12, text='identity'))
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *values: Any, **settings: Any) -> Self:
        """Remember the settings; a copy has those of the original."""
        made = super().__new__(cls)
        made._given = values, settings
        return made

    def __repr__(self) -> str:
        values, settings = self.__dict__.get("_given", ((), {}))
        words = [*map(repr, values), *(f"{name}={value!r}" for name, value in settings.items())]
        return f"{type(self).__name__}({', '.join(words)})"
