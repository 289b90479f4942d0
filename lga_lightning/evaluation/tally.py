"""How many answers and verdicts are not what they should be: answers cut at the limit, verdicts that are unclear or missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.own_words import Ended
from lga_lightning.evaluation.results import EvalResult


def how_measured(config: EvaluationConfig, results: Sequence[Sequence[EvalResult]], in_chat: bool) -> dict[str, Any]:
    """What was measured and how that went, for result files.

    Args:
        config: What was measured.
        results: N requests' results.
        in_chat: Whether a model that spoke freely was asked in its chat template.

    Returns:
        The config's settings; in the protocol ``wild`` also ``in_chat`` and ``cut``, and with a judge ``judge.verdicts``.
    """
    found, everything = config.settings(), list(chain.from_iterable(results))
    if config.in_the_wild:
        found |= {"in_chat": in_chat, "cut": count_cut(everything)}
    if config.judge is not None:
        found["judge"] |= {"verdicts": count_verdicts(everything)}
    return found


def count_cut(results: Sequence[EvalResult]) -> dict[str, int]:
    """Answers that were cut at the limit before the model had come to its own end.

    Args:
        results: Results of prompts.

    Returns:
        ``prompts`` with such answers, of which there are ``before`` and ``after`` the edit.
    """
    ended = [result.scores[Ended.name] for result in results if Ended.name in result.scores]
    return {
        "prompts": len(ended),
        "before": sum(not before for before, _ in ended),
        "after": sum(not after for _, after in ended),
    }


def count_edited_probes(
    requests: Sequence[EditRequest], results: Sequence[Sequence[EvalResult]]
) -> dict[str, dict[str, int]]:
    """Locality probes that were left out since the edits are about them (see :class:`~lga_lightning.evaluation.evaluator.Evaluator`).

    Args:
        requests: N requests.
        results: Results of the prompts of each.

    Returns:
        ``edited_probes``: ``left_out`` of how many ``probes``; empty where none was left out.
    """
    probes = sum(len(of_kind) for request in requests for of_kind in request.locality.values())
    left_out = probes - sum(result.group.startswith("locality") for result in chain.from_iterable(results))
    return {"edited_probes": {"left_out": left_out, "probes": probes}} if left_out > 0 else {}


def count_verdicts(results: Sequence[EvalResult]) -> dict[str, Any]:
    """Verdicts on responses, before and after.

    Args:
        results: Results of prompts.

    Returns:
        ``responses`` that were to be judged; ``unclear`` ones, whose reply is neither yes nor no; ``missing`` ones, without a
        reply; and the ``problem`` that caused those, None where there are none.
    """
    all_of_them = list(chain.from_iterable(result.judgements for result in results if result.judgements))
    missing = [one for one in all_of_them if one.reply is None]
    unclear = sum(one.reply is not None and one.verdict is None for one in all_of_them)
    problem = next((one.problem for one in missing), None)
    return {"responses": len(all_of_them), "unclear": unclear, "missing": len(missing), "problem": problem}
