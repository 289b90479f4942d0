"""What ``lga validate`` leaves: ``validation.json``, and every prompt with its scores in ``requests.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.edit_metrics import BUILT_IN
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.evaluation.summary import INTERVALS, mean_by_group, summarise
from lga_lightning.evaluation.tally import count_edited_probes, how_measured
from lga_lightning.exceptions import DataError
from lga_lightning.results.ability import AbilityResult
from lga_lightning.results.files import SCHEMA, ResultFile, take_fields, write_result
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.typed import typed
from lga_lightning.results.validation_parts import DriftPoint, Metric, RequestScores
from lga_lightning.results.versions import versions
from lga_lightning.utils.io import write_whole

WORDS = (
    "said",
    "said_in_context",
    "judge_prompt",
    "judge_reply",
)  # columns of requests.parquet with words, a side each
SIDES = ("before", "after")
LOGGED = ("generated", "contained", "judged")  # of the metrics of the model's own words
VALIDATION_FILE = "validation.json"
REQUESTS_FILE = "requests.parquet"

MODES = {
    "independent": "every request edited alone, on the unedited model",
    "batch": "all requests edited together, then scored",
    "sequential": "requests edited one group after the other, with all earlier edits in place, then scored",
}

# optional fields, by what they hold
LISTS: dict[str, type[DriftPoint] | type[Cohort] | type[GrowthPoint]] = {
    "drift": DriftPoint,
    "cohorts": Cohort,
    "growth": GrowthPoint,
}
ABILITIES = ("general", "harness")

_FILE = ResultFile(
    what="a validation",
    verb="lga validate",
    error=DataError,
    missing="There is no validation at {path}. Run `lga validate` first (with the same --trainer.default_root_dir).",
)


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What edits did; the content of ``validation.json``, and of an adapter's ``lga.json``.

    Attributes:
        model: Name of the model, as the user gave it.
        data: Name of the data set.
        layers: Edited blocks, ascending.
        layer_source: Where these layers come from, in words.
        method: Name and settings of the editing method.
        mode: ``independent``, ``batch`` or ``sequential``.
        mode_means: What that means, in words.
        num_requests: How many requests were edited.
        num_scored: How many of them were scored, drawn at random; None for all.
        num_skipped: How many records of the data gave no request, by reason.
        intervals: What the intervals are, in words.
        evaluation: How the model was let speak, with counts of answers that were cut, of verdicts that are no verdicts, and of probes left out.
        metrics: Means over requests, by metric.
        group_size: How many requests were edited at once; None where each was edited alone.
        drift: Points of the drift curve, by number of edits; None where each request was edited alone.
        cohorts: Facts of early groups, asked again and again; None but in the mode ``sequential``.
        growth: Speed and memory by number of edits; None but in the mode ``sequential``.
        general: What the edits left of the model's general ability; None where that was not asked.
        harness: The same by tasks of lm-evaluation-harness.
        governor: Limits of the run, what was found at each look, and why it was stopped, if it was; None for no limits.
        requests: The requests and the results of each.
        versions: Versions of the packages that made it.
    """

    model: str
    data: str
    layers: list[int]
    layer_source: str
    method: dict[str, Any]
    mode: str
    mode_means: str
    num_requests: int
    num_skipped: dict[str, int]
    intervals: str
    num_scored: int | None = None
    evaluation: dict[str, Any] | None = None
    metrics: dict[str, Metric]
    group_size: int | None = None
    drift: list[DriftPoint] | None = None
    cohorts: list[Cohort] | None = None
    growth: list[GrowthPoint] | None = None
    general: AbilityResult | None = None
    harness: AbilityResult | None = None
    governor: dict[str, Any] | None = None
    requests: list[RequestScores]
    versions: dict[str, str]

    @classmethod
    def build(
        cls,
        requests: Sequence[EditRequest],
        results: Sequence[Sequence[EvalResult]],
        *,
        model_name: str,
        data_name: str,
        layers: Sequence[int],
        layer_source: str,
        method: Mapping[str, Any],
        mode: str,
        skipped: Mapping[str, int],
        evaluation: EvaluationConfig,
        resamples: int,
        in_chat: bool = False,
        group_size: int | None = None,
        drift: Sequence[DriftPoint] = (),
        change: Mapping[int, float] | None = None,
        governor: Mapping[str, Any] | None = None,
        num_requests: int = 0,
    ) -> ValidationResult:
        """From the results of every request's prompts.

        Args:
            requests: N requests.
            results: Results of the prompts of each.
            model_name: Name of the model, as the user gave it.
            data_name: Name of the data set.
            layers: Edited blocks.
            layer_source: Where these layers come from, in words.
            method: Name and settings of the editing method.
            mode: One of ``MODES``.
            skipped: How many records of the data gave no request, by reason.
            evaluation: What was measured.
            resamples: Bootstrap resamples for the intervals.
            in_chat: Whether a model that spoke freely was asked in its chat template.
            group_size: How many requests were edited at once (mode ``sequential``); None for all.
            drift: Points of the drift curve before the last edit.
            change: By layer, the relative size of all edits made together.
            governor: What a governor found.
            num_requests: How many requests were edited together; 0 where each was edited alone, and scored.
        """
        count = num_requests or len(results)
        together = mode != "independent"
        left_out = count_edited_probes(requests, results) if together and "locality" in evaluation.families else {}
        own, protocol = evaluation.metrics, evaluation.protocol
        summary = summarise(results, evaluation.limit, resamples, metrics=own, protocol=protocol)
        last = [DriftPoint.of(count, change or {}, results)] if together else []
        return cls(
            model=model_name,
            data=data_name,
            layers=list(layers),
            layer_source=layer_source,
            method=dict(method),
            mode=mode,
            mode_means=MODES[mode],
            num_requests=count,
            num_scored=len(results) if len(results) < count else None,
            num_skipped=dict(skipped),
            intervals=INTERVALS.format(resamples=resamples),
            evaluation=how_measured(evaluation, results, in_chat) | left_out,
            metrics={name: Metric.from_json(entry) for name, entry in summary.items()},
            group_size=(group_size or count) if together else None,
            drift=[*drift, *last] if together else None,
            governor=None if governor is None else dict(governor),
            requests=[
                RequestScores(r.id, r.prompt, r.subject, r.target_old, r.target_new, mean_by_group(of_request))
                for r, of_request in zip(requests, results, strict=True)
            ],
            versions=versions(),
        )

    def means(self) -> dict[str, float]:
        """Means under names for loggers: ``rewrite/before``, ``generated/rewrite/after``, ..."""
        named = dict(self.metrics)
        for name, metric in self.metrics.items():
            named |= {f"{kind}/{name}": metric.others[kind] for kind in LOGGED if kind in metric.others}
        return {f"{name}/{side}": getattr(metric, side) for name, metric in named.items() for side in SIDES}

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; what is None is left out."""
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        content["metrics"] = {name: metric.to_dict() for name, metric in self.metrics.items()}
        for name in LISTS:
            content[name] = content[name] and [part.to_dict() for part in content[name]]
        for name in ABILITIES:
            content[name] = content[name] and content[name].to_dict()
        content["requests"] = [request.to_dict() for request in self.requests]
        return {"schema": SCHEMA, **{name: value for name, value in content.items() if value is not None}}

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        write_result(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> ValidationResult:
        """Read a ``validation.json``.

        Raises:
            DataError: If there is no such file, it is not a validation, or it lacks a field or has one that is unknown.
        """
        with _FILE.reading(path) as content:
            found = take_fields(
                cls, content, optional=["num_scored", "evaluation", "group_size", "governor", *LISTS, *ABILITIES]
            )
            found["metrics"] = {name: Metric.from_json(entry) for name, entry in found["metrics"].items()}
            found["requests"] = [RequestScores.from_json(request) for request in found["requests"]]
            found |= {name: [LISTS[name].from_json(p) for p in found[name]] for name in LISTS if name in found}
            return typed(cls(**found))


def write_results(
    path: Path,
    index: Sequence[int],
    ids: Sequence[str],
    results: Sequence[Sequence[EvalResult]],
    metrics: Sequence[EditMetric] = (),
) -> None:
    """Write a Parquet file with one row a prompt: its text, what the model said, and its scores, before and after.

    Args:
        path: Where the file is to appear, whole.
        index: N positions of the requests in their data set.
        ids: N ids of the requests.
        results: N requests' results.
        metrics: Metrics beside the built-in ones.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = [metric.name for metric in (*BUILT_IN, *metrics)]
    rows = []
    for place, name, of_request in zip(index, ids, results, strict=True):
        for result in of_request:
            row = {
                "index": place,
                "id": name,
                "group": result.group,
                "prompt": result.prompt,
                "answers": result.answers,
            }
            rows.append(row | {"asked": result.asked} | _sides(result, names))
    said_columns = [(f"{words}_{side}", pa.string()) for words in WORDS for side in SIDES]
    numbers = [(f"{metric}_{side}", pa.float64()) for metric in names for side in SIDES]
    words = [("id", pa.string()), ("group", pa.string()), ("prompt", pa.string()), ("answers", pa.list_(pa.string()))]
    words.append(("asked", pa.string()))
    table = pa.Table.from_pylist(rows, pa.schema([("index", pa.int64()), *words, *said_columns, *numbers]))
    write_whole(path, lambda scratch: parquet.write_table(table, scratch))


def _sides(result: EvalResult, metrics: Sequence[str]) -> dict[str, Any]:
    """The columns of a prompt that have a side before and one after: what was said, what the judge said, and the scores."""
    judged = result.judgements
    columns = {
        "said": result.said,
        "said_in_context": result.said_in_context,
        "judge_prompt": judged and tuple(one.prompt for one in judged),
        "judge_reply": judged and tuple(one.reply for one in judged),
        **{name: result.scores.get(name) for name in metrics},
    }
    return {f"{name}_{side}": pair and pair[i] for name, pair in columns.items() for i, side in enumerate(SIDES)}
