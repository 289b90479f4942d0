"""Tasks of lm-evaluation-harness (Gao et al., https://zenodo.org/records/12608602) before and after edits, in this process."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lga_lightning.editing.delta import WeightDelta
from lga_lightning.evaluation.general.summary import compare_means
from lga_lightning.exceptions import SettingError
from lga_lightning.utils.io import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "lm-eval"
MEAN = "mean over items; interval by the bootstrap over items, the same draws on both sides"
OTHER = "the task's own aggregate; interval of 1.96 standard errors, as the harness estimates them"
INTERVALS = ("before_ci", "after_ci", "ratio_ci")


def harness_version() -> str:
    """The version that is installed.

    Raises:
        SettingError: If none is.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingError(
            "`harness` asks tasks of lm-evaluation-harness, and the package lm-eval is not installed. Install it with "
            "`pip install 'lga-lightning[harness]'` (or `pip install lm-eval`), or leave --edits.harness out: --edits.general asks a "
            "small suite that comes with this package."
        ) from error


def check_harness(tasks: Sequence[str], folder: str | Path | None = None) -> Any:
    """Refuse tasks that are not there.

    Args:
        tasks: Names of tasks, groups of tasks or tags.
        folder: Folder with tasks of one's own, as YAML.

    Returns:
        The harness's index of tasks, which takes seconds to make.

    Raises:
        SettingError: If the package is not installed, there is no such folder, or no such task.
    """
    version = harness_version()
    if folder is not None and not user_path(folder).is_dir():
        raise SettingError(
            f"`harness_path` must be a folder with tasks (*.yaml), and there is none at {str(folder)!r}."
        )
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if folder is None else str(user_path(folder)))
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown:
        raise SettingError(
            f"lm-evaluation-harness {version} has no task {', '.join(map(repr, unknown))}. `lm_eval ls tasks` lists what it "
            "has; tasks of your own are found in the folder --edits.harness_path."
        )
    return manager


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    delta: WeightDelta,
    folder: str | Path | None = None,
    limit: int | None = None,
    resamples: int = 1000,
    batch_size: int = 8,
) -> dict[str, dict[str, Any]]:
    """Run tasks on the unedited model and on the edited one; no weight is touched, and the random state stays as it is.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        tasks: Names of tasks, groups of tasks or tags.
        delta: The edit.
        folder: Folder with tasks of one's own.
        limit: Number of items of each task, the first so many; None for all.
        resamples: Bootstrap resamples for the intervals of means over items.
        batch_size: Rows a batch.

    Returns:
        By ``task/metric`` (a filter other than ``none`` behind it) the fields of an
        :class:`~lga_lightning.results.ability.AbilityScore`, as JSON.

    Raises:
        SettingError: See :func:`check_harness`.
    """
    manager = check_harness(tasks, folder)
    before = _evaluate(model, tokenizer, tasks, manager, limit, batch_size)
    with delta.attached(model):
        after = _evaluate(model, tokenizer, tasks, manager, limit, batch_size)
    entries = {}
    for task, found in before["results"].items():
        for key, value in found.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue  # an alias, a standard error, or what is no number
            name = f"{task}/{metric}" + ("" if kind == "none" else f",{kind}")
            entries[name] = _compare(before, after, task, metric, kind, resamples)
    return entries


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    manager: Any,
    limit: int | None,
    batch_size: int,
) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _same_random_state():
        return simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=1000,
        )


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Afterwards, Python's, NumPy's and torch's generators are as they were: the harness seeds them."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _compare(
    before: Mapping[str, Any], after: Mapping[str, Any], task: str, metric: str, kind: str, resamples: int
) -> dict[str, Any]:
    """Both sides of a metric. Where it is the mean of its items' scores, these are drawn anew; else standard errors must do."""
    sides = [float(run["results"][task][f"{metric},{kind}"]) for run in (before, after)]
    scores = [_item_scores(run, task, metric, kind) for run in (before, after)]
    if all(scores) and all(abs(sum(s) / len(s) - side) < 1e-6 for s, side in zip(scores, sides, strict=True)):
        return {**compare_means(torch.tensor(scores, dtype=torch.float64).T, resamples), "protocol": MEAN}
    errors = [_number(run["results"][task].get(f"{metric}_stderr,{kind}")) for run in (before, after)]
    ends = [[side - 1.96 * error, side + 1.96 * error] for side, error in zip(sides, errors, strict=True)]
    ratio = sides[1] / sides[0] if sides[0] else nan
    count = before.get("n-samples", {}).get(task, {}).get("effective", 0)
    return {
        **dict(zip(("before", "after", "ratio"), (*sides, ratio), strict=True)),
        **dict(zip(INTERVALS, (*ends, [nan, nan]), strict=True)),
        "num_items": count,
        "protocol": OTHER,
    }


def _item_scores(run: Mapping[str, Any], task: str, metric: str, kind: str) -> list[float]:
    """A metric's scores of single items, in their order; empty where the harness keeps none, or other things than numbers."""
    samples = [s for s in run.get("samples", {}).get(task, []) if s.get("filter", "none") == kind]
    scores = [sample.get(metric) for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    return [float(score) for score in scores] if all(isinstance(score, int | float) for score in scores) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else nan
