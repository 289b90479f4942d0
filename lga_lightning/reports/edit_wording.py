"""Sentences about edits that the terminal and the page share: what to look at first, and what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lga_lightning.reports.tables import number
from lga_lightning.reports.wording import FIRST_LOOK
from lga_lightning.results.validation import ValidationResult
from lga_lightning.results.validation_parts import Metric

LEAST_LOCALITY = 0.6  # of the teacher-forced predictions, unchanged
LARGEST_LOSS = 0.3  # of right answers to the locality probes, in the model's own words


def first_look(metric: Metric) -> Metric:
    """The number of a metric that a person should look at first: of the model's own words, where it was asked for them.

    Args:
        metric: The metric.
    """
    return next((metric.others[name] for name in FIRST_LOOK if name in metric.others), metric)


def locality_collapse(result: ValidationResult) -> str:
    """What to do where edits have harmed what they should have left alone; "" where they have not.

    They have if less than ``LEAST_LOCALITY`` of the teacher-forced predictions on locality probes are unchanged, or if the share of
    right answers in the model's own words has dropped by more than ``LARGEST_LOSS``.

    Args:
        result: What the edits did.
    """
    locality = result.metrics.get("locality")
    if locality is None:
        return ""
    said = next((locality.others[name] for name in ("judged", "contained") if name in locality.others), locality)
    if locality.after < LEAST_LOCALITY:
        what = f"only {locality.after:.0%} of the predictions on locality probes are what they were"
    elif said.before - said.after > LARGEST_LOSS and said is not locality:
        what = f"right answers to locality probes fell from {said.before:.0%} to {said.after:.0%}"
    else:
        return ""
    return f"Locality has collapsed: {what}. Other facts are damaged. Try {ways_out(result.method)}."


def ways_out(method: Mapping[str, Any]) -> str:
    """What may help against an edit that harms, in words.

    Args:
        method: Name and settings of the method.

    Example:
        >>> ways_out({"name": "MEMIT", "second_moment": "sampled", "clamp": 0.75})
        'another layer (`lga fit` forecasts them) or a smaller clamp than 0.75'
    """
    ways = ["another layer (`lga fit` forecasts them)"]
    if method.get("second_moment") == "identity":
        ways.insert(0, "C from text in place of the identity (the method's setting second_moment: bundled, or a text)")
    if "clamp" in method:
        ways.append(f"a smaller clamp than {method['clamp']}")
    return listed(ways, "or")


def listed(parts: Sequence[str], last: str = "and") -> str:
    """Things in a row, with a word before the last.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")
        ('a', 'a and b', 'a, b, or c')
    """
    if len(parts) < 3:
        return f" {last} ".join(parts)
    return f"{', '.join(parts[:-1])}, {last} {parts[-1]}"


def remarks_on_words(result: ValidationResult) -> list[str]:
    """What a reader must know of what was asked and said: probes left out, answers that were cut, verdicts that are unclear."""
    measured = result.evaluation or {}
    said = []
    if edited := measured.get("edited_probes"):
        said.append(
            f"{edited['left_out']} of {edited['probes']} locality probes are about facts that these edits change, and were left out."
        )
    cut = measured.get("cut")
    if cut and cut["before"] + cut["after"]:
        said.append(
            f"Cut at {measured['max_new_tokens']} tokens before their own end: {cut['before']} of {cut['prompts']} answers before "
            f"the edits, {cut['after']} after (--edits.max_new_tokens)."
        )
    verdicts = _verdicts(result)
    if verdicts.get("unclear"):
        said.append(
            f"The judge's reply was neither yes nor no on {verdicts['unclear']} of {verdicts['responses']} responses, which do "
            "not count; all replies are in requests.parquet."
        )
    return said


def judge_failure(result: ValidationResult) -> str:
    """Why verdicts are missing; "" where none are."""
    verdicts = _verdicts(result)
    if not verdicts.get("missing"):
        return ""
    return (
        f"The judge failed: {verdicts['missing']} of {verdicts['responses']} verdicts are missing; those before, and all other "
        f"scores, are kept. {verdicts['problem']}"
    )


def governor_stop(result: ValidationResult) -> str:
    """Why a run was stopped before its end, and what is kept; "" where it was not."""
    stopped = (result.governor or {}).get("stopped")
    if not stopped:
        return ""
    return (
        f"The governor stopped the run: after {stopped['made']} edits, {stopped['reason']}. Kept, whole: the "
        f"first {stopped['edits']}, which the last look before found within the limits. Requests that are not edited: {stopped['left_out']}."
    )


def governor_remarks(result: ValidationResult) -> list[str]:
    """What a governor found where it had nothing to stop."""
    if result.governor is None or result.governor["stopped"]:
        return []
    return [f"The governor took {len(result.governor['looks'])} looks, and no limit was passed."]


def warnings(result: ValidationResult) -> list[str]:
    """What must not be overlooked: a run that was stopped, locality that has collapsed, a judge that failed."""
    return [text for text in (governor_stop(result), locality_collapse(result), judge_failure(result)) if text]


def _verdicts(result: ValidationResult) -> dict[str, Any]:
    found: dict[str, Any] = (result.evaluation or {}).get("judge", {}).get("verdicts", {})
    return found


def low_rank_cost(whole: Mapping[str, Metric], folded: Mapping[str, Metric]) -> str:
    """What an edit loses in scores where it is written with a lower rank, by the numbers to look at first; "" where none changes.

    Args:
        whole: Scores of the whole edit, by metric.
        folded: Scores of what is written.
    """
    pairs = {name: (first_look(whole[name]).after, first_look(metric).after) for name, metric in folded.items()}
    shown = {name: [number(value, 3) for value in pair] for name, pair in pairs.items()}
    changes = [f"{name} {before} -> {after}" for name, (before, after) in shown.items() if before != after]
    return f"What that costs (whole edit -> as written): {', '.join(changes)}." if changes else ""
