"""Which judge a setting names."""

from __future__ import annotations

from lga_lightning.evaluation.judge import Judge
from lga_lightning.evaluation.judge_model import ModelJudge
from lga_lightning.evaluation.judge_server import ServerJudge, is_address
from lga_lightning.exceptions import SettingError


def named_judge(judge: str | None, model: str | None = None, timeout: float = 60.0) -> Judge | None:
    """A judge by name.

    Args:
        judge: An address (``http://HOST:PORT/v1``) or the name of a model to load; None for no judge.
        model: Behind an address, what the server calls the model.
        timeout: Seconds that a server may say nothing.

    Raises:
        SettingError: If an address comes without a model's name, or a name without an address.
    """
    if judge is not None and is_address(judge):
        if not model:
            raise SettingError(
                f"The judge at an address needs the name that the server knows its model by: --edits.judge_model NAME "
                f"(`GET {judge.rstrip('/')}/models` lists them)."
            )
        return ServerJudge(judge, model, timeout)
    if model is not None:
        raise SettingError(
            f"`judge_model` names a model on a server, but `judge` is {judge!r}: give the server's address there "
            "(--edits.judge http://HOST:PORT/v1), or leave `judge_model` out."
        )
    return None if judge is None else ModelJudge(judge)
