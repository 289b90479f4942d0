"""The folder of an adapter with its card, and with the evidence: scores, what the model said, where the layer comes from, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.adapter import save_updates
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.models.loading import hub_name
from lga_lightning.reports.html import write_report
from lga_lightning.reports.model_card import leave_card
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE, ValidationResult, write_results

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_adapter(
    delta: WeightDelta,
    folder: Path,
    model: PreTrainedModel,
    requests: Sequence[EditRequest],
    result: ValidationResult,
    responses: Sequence[Sequence[EvalResult]],
    search: LocatorResult | None = None,
    overwrite: bool = False,
    low_rank: Mapping[str, Any] | None = None,
    metrics: Sequence[EditMetric] = (),
) -> None:
    """Write an edit and its evidence; the folder appears whole or not at all.

    Args:
        delta: The edit.
        folder: Folder that is to appear.
        model: The unedited model.
        requests: N edited facts.
        result: Their scores.
        responses: Results of the prompts of each.
        search: What led to the layer; None where it was given.
        overwrite: Whether to replace a folder that is there.
        low_rank: To which rank it was folded, and what that cost; None for an edit that is whole.
        metrics: Metrics beside the built-in ones, whose scores the responses hold.
    """

    def add_evidence(scratch: Path) -> None:
        """The card, the results and the page, beside the adapter."""
        ids = [request.id for request in requests]
        write_results(scratch / REQUESTS_FILE, range(len(requests)), ids, responses, metrics)
        result.save(scratch / VALIDATION_FILE)
        if search is not None:
            search.save(scratch / ATTRIBUTION_FILE)
        write_report(scratch)
        leave_card(scratch, result, requests, delta.ranks, "matrices" if delta.is_dense else "adapter")

    save_updates(
        delta.updates,
        folder,
        model,
        hub_name(result.model),
        note=result.to_dict() | ({} if low_rank is None else {"low_rank": low_rank}),
        overwrite=overwrite,
        facts=delta.facts,
        more=add_evidence,
    )
