"""What can go wrong with a user's input: one clear paragraph each, printed by the command line without a traceback."""


class LGAError(Exception):
    """Base of all errors about the user's input. Its text says what was wrong, where, and what to do."""


class SettingError(LGAError, ValueError):
    """A setting outside its range."""


class DataError(LGAError, ValueError):
    """A file, a record or a request that cannot be used."""


class InvalidRequest(DataError):  # noqa: N818 - the field says request, not request error
    """One edit request that cannot be used; a reader may skip it and count it under its ``reason``.

    Args:
        reason: A short, constant reason under which skipped requests are counted.
        detail: What exactly was wrong, and what to do about it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class ModelError(LGAError, ValueError):
    """A model that is not there, or whose architecture cannot be used."""


class LayerError(LGAError, ValueError):
    """A layer that the model does not have, or that cannot be found."""


class WriteError(LGAError, OSError):
    """A file or a folder that could not be written; what was there before is as it was."""


class JudgeError(LGAError, RuntimeError):
    """A judge that gives no reply, or none that can be read."""


class NonFiniteScoreError(LGAError, ArithmeticError):
    """A layer's score that is NaN or infinite."""
