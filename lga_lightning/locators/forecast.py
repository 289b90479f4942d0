"""The default choice of a layer: what edits there would do is forecast, for the method that will be used."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import RROME, EditMethod
from lga_lightning.locators.base import Evidence, LayerLocator, knows_old_answer
from lga_lightning.locators.first_order import Ask, ForecastRows, Rows, encode_rows, forecast_rows
from lga_lightning.models.architecture import blocks
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.per_model import PerModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OTHERS = 2
"""Other facts that take the place of locality probes, for a request that has none."""


@dataclass(frozen=True)
class Link:
    """From gains to probabilities: 1 / (1 + (threshold behind / gain)^steepness).

    Attributes:
        threshold: Share of what the new answer is behind that makes it as likely as not that it takes the lead.
        steepness: How fast the probability changes there.
    """

    threshold: float
    steepness: float

    def __call__(self, behind: Tensor, gain: Tensor) -> Tensor:
        """Probabilities that the new answer takes the lead.

        Args:
            behind: [N] how far it is behind.
            gain: [N, L] what edits make up.

        Returns:
            [N, L].
        """
        needed = self.threshold * behind.unsqueeze(1)
        made_up = gain.clamp_min(0) ** self.steepness
        return made_up / (made_up + needed**self.steepness).clamp_min(torch.finfo(gain.dtype).tiny)

    def expected(self, ask: Ask, found: ForecastRows, owner: Tensor, count: int) -> Tensor:
        """What edits are expected to score on rows that ask one thing.

        Args:
            ask: What they ask: a share of the new answer's tokens, some of which the model may give already, or that it stays away.
            found: N such rows.
            owner: [N] the request that each belongs to.
            count: Number B of requests.

        Returns:
            [B, L] means over each request's rows, from 0 to 1; NaN where it has none.
        """
        leads = self(found.behind, found.gain)
        scores = 1 - leads if ask is Ask.KEEP else leads + (1 - leads) * found.right.unsqueeze(1)
        totals = scores.new_zeros(count, scores.shape[1]).index_add_(0, owner, scores)
        return totals / owner.bincount(minlength=count).unsqueeze(1)


LINKS = {Ask.REWRITE: Link(0.4, 1.0), Ask.REPHRASE: Link(1.25, 1.5), Ask.KEEP: Link(0.8, 1.0)}
"""Fitted to sweeps by ``benchmarks/forecast_links.py``; how they do on models that were left out: docs/results/forecast.md."""


def forecast_columns(rows: Rows, found: ForecastRows, count: int) -> Tensor:
    """The columns of an :class:`EditForecast` from a forecast of rows.

    Args:
        rows: N rows.
        found: Their forecast.
        count: Number B of requests.

    Returns:
        [B, 7, L], NaN where a request has no row that asks a thing.
    """
    values = found.gain.new_full((count, len(EditForecast.columns), found.gain.shape[1]), torch.nan)
    for ask, link in LINKS.items():
        mine = rows.ask == ask
        part, owner = found.part(mine), rows.owner[mine]
        values[:, 1 + ask] = link.expected(ask, part, owner, count)
        shares = part.gain / part.behind.clamp_min(1e-3).unsqueeze(1)
        for number in owner.unique().tolist():
            values[number, 4 + ask] = shares[owner == number].median(0).values
    values[:, 0] = values[:, 1:4].nanmean(1)
    return values


class EditForecast(LayerLocator):
    """Scores a layer by what an edit there is expected to score, of which none is made.

    For each request and layer, one forward and one backward pass tell what the method would write: which way its search for the
    target value sets out and how far it may go (its clamp, its steps), and which keys the update answers to (its C, its closed form,
    its window). They also tell what that does to every other row of the pass, see :mod:`~lga_lightning.locators.first_order`:
    does the new answer take the lead on the prompt (efficacy) and on its rephrases (generalisation), and where it must not,
    on the locality probes (locality)? Requests without probes are held against the facts of two other requests.

    The score is the mean of the three that a request has, as a :class:`LayerSweep` scores edits that are made; a layer's is the
    mean over requests, and the highest is golden. Of a method that edits a window, a layer stands for the window that ends there.
    The forecast is of first order but for the norm behind the MLP and for the residual stream's, so it is a forecast:
    ``lga fit --verify`` lets edits decide.

    Args:
        editor: How facts are edited. None forecasts what the run edits with, and by itself R-ROME.
    """

    columns = ("scores", "expected_rewrite", "expected_rephrase", "expected_locality", "reach", "transfer", "damage")

    def __init__(self, editor: EditMethod | None = None) -> None:
        super().__init__(kappa=None, aggregate="mean")
        self.editor = editor
        self._others: PerModel[dict[str, list[EditRequest]]] = PerModel()

    @property
    def needs_subject(self) -> bool:
        """Whether the editor needs one."""
        return (self.editor or RROME()).needs_subject

    def for_editor(self, editor: EditMethod) -> LayerLocator:
        """A forecast of what the run edits with, if it does not say of what."""
        if self.editor is not None:
            return self
        own = copy.copy(self)  # of the same class
        own.editor, own._others = editor, PerModel()
        return own

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        """Find the editor's second moments of all layers, and for requests without locality probes other facts, from all of the run."""
        self.editor = self.editor or RROME()
        self.editor.prepare_forecast(model, tokenizer, range(len(blocks(model))))
        self._others[model] = _other_facts(requests)

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Expected scores of edits at every layer.

        Without a :meth:`prepare` before, the first requests to be scored serve for it.

        Returns:
            Values [B, 7, L]: the mean of the three expected scores that follow; those of rewrite, rephrase and locality, from 0 to 1;
            and what they come from, as shares of what the new answer is behind: made up on the prompt (reach), on rephrases
            (transfer) and on what must not change (damage), each the median over a request's rows. NaN where a request has no such
            prompt.
        """
        rows, found = self.forecast(model, tokenizer, requests)
        values = forecast_columns(rows, found, len(requests))
        return Evidence(values.float(), knows_old_answer(model, tokenizer, requests))

    @torch.inference_mode(False)  # what batches are made of is saved for the way back
    def forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> tuple[Rows, ForecastRows]:
        """What edits would do to each row of requests, on which :meth:`score` sums up."""
        if model not in self._others:
            self.prepare(model, tokenizer, requests)
        others = [self._others[model].get(request.prompt, []) for request in requests]
        rows = encode_rows(tokenizer, requests, others).to(input_device(model))
        return rows, forecast_rows(model, self.editor or RROME(), rows, len(requests))

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The editor's."""
        return {"editor": (self.editor or RROME()).settings_by_layer(model)}


def _other_facts(requests: Sequence[EditRequest]) -> dict[str, list[EditRequest]]:
    """For each request without locality probes, the next requests about other subjects, in the order of the data."""
    found = {}
    for place, request in enumerate(requests):
        if not any(request.locality.values()):
            following = (other for other in (*requests[place + 1 :], *requests[:place]) if other.about != request.about)
            found[request.prompt] = list(islice(following, OTHERS))
    return found
