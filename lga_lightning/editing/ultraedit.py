"""UltraEdit (arXiv 2505.14679): one step down the normalised gradient, written by least squares; and StableEdit's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lga_lightning.data.loading import FACTS, load_requests, name_of_requests
from lga_lightning.data.sources import source_fingerprint
from lga_lightning.editing.answer_gradients import AnswerGradients, AnswerRows, answer_gradients
from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.presets import published_ultraedit_rate, ultraedit_layers
from lga_lightning.editing.running_statistics import RunningStatistics
from lga_lightning.editing.updates import LowRankUpdate
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.models.architecture import OUT_PROJECTION, matrices_to_edit
from lga_lightning.models.per_weights import PerWeights
from lga_lightning.models.sites import EditSite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest

STEP = 0.5
"""Length of a token's step, in lengths of the unedited matrix's outputs, where no learning rate is given or published."""
WARMUP_BATCH = 16
"""Number of facts in a pass of the warm-up."""


@dataclass(frozen=True)
class SeenRows:
    """What an editing session has seen at one matrix.

    Attributes:
        keys: Statistics of its inputs.
        gradients: Statistics of its outputs' gradients.
    """

    keys: RunningStatistics
    gradients: RunningStatistics

    def __add__(self, other: SeenRows) -> SeenRows:
        """Those of both."""
        return SeenRows(self.keys + other.keys, self.gradients + other.gradients)


@dataclass(frozen=True)
class WarmUp:
    """What the unedited model's answers to the warm-up's facts say of a matrix.

    Attributes:
        seen: Statistics with which a session begins.
        outputs: Those of its outputs' lengths.
    """

    seen: SeenRows
    outputs: RunningStatistics

    def __add__(self, other: WarmUp) -> WarmUp:
        """That of both parts of the facts."""
        return WarmUp(self.seen + other.seen, self.outputs + other.outputs)


class UltraEdit(EditMethod):
    """Delta^T = (H^T H + ridge I)^-1 H^T V, with rows v = -learning_rate |h^|^2 g^ for every token of the new answers (section 3).

    H [n, d_in] are a matrix's inputs at the n positions that predict the new answers' tokens; h^ and g^ are these inputs and the
    gradients of the answers' NLL with respect to its outputs, less their mean and over their standard deviation, both taken over
    all edits of an editing session so far, these included. No subject, no C and no search: one forward and one backward pass
    serve all matrices of all layers.

    ``warmup``, ``whiten`` and ``ridge`` are what StableEdit (arXiv 2605.11836) adds.

    Args:
        learning_rate: Size of the step; None for what is published for the model, and where nothing is, for steps half as long as
            the unedited matrix's outputs at the answers to the warm-up's facts (to 16 of them, where there is no warm-up).
        ridge: Weight of I; StableEdit takes 10.
        modules: Matrices of each layer that are edited: ``out_projection`` (of the MLP), ``all``, or names or ends of names such as
            ``gate_proj``.
        warmup: Number of other facts, of the unedited model, whose statistics every session begins with; 0 for none, which leaves
            an edit of a single token without statistics. StableEdit also writes those facts, which is not done here.
        warmup_facts: These facts, as ``--data.requests`` takes them; None for the bundled ones.
        whiten: Whether gradients are multiplied by the inverse root of their whole covariance, once a session has seen more than
            d_out + 1 tokens; before that, each entry is divided by its standard deviation.
    """

    name = "UltraEdit"
    keeps_history = True
    history_entry = SeenRows
    needs_subject = False

    def __init__(
        self,
        learning_rate: float | None = None,
        ridge: float = 1.0,
        modules: str | list[str] = OUT_PROJECTION,
        warmup: int = 100,
        warmup_facts: str | None = None,
        whiten: bool = False,
    ) -> None:
        if not ridge > 0 or (learning_rate is not None and not learning_rate > 0):
            raise SettingError(f"`ridge` and `learning_rate` must be above 0, got {ridge} and {learning_rate}.")
        if warmup < 0:
            raise SettingError(f"`warmup` must be at least 0, got {warmup}.")
        if not modules:
            raise SettingError(f"`modules` is empty. Give {OUT_PROJECTION!r}, 'all', or names of matrices.")
        self._learning_rate = learning_rate
        self.ridge = ridge
        self.modules = modules
        self.warmup = warmup
        self.warmup_facts = warmup_facts
        self.whiten = whiten
        self._warm: PerWeights[dict[str, WarmUp]] = PerWeights()

    def learning_rate(self, model: PreTrainedModel) -> float | None:
        """Size of the step that is given or published; None where it goes by the size of the outputs."""
        return published_ultraedit_rate(model) if self._learning_rate is None else self._learning_rate

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """Published layers, or a late one; see :func:`ultraedit_layers`."""
        return ultraedit_layers(model)

    def prepare(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]) -> None:
        """Gather what the warm-up's facts say of the layers, in one pass over them; the model is to be unedited.

        That is the statistics with which sessions begin, and the size of the matrices' outputs, from which the step's follows. Taken
        from edited matrices, steps would grow with the edits, and the edits with the steps.
        """
        warm = self._warm.of(model, dict)
        missing = [site for site in self._sites(model, layers) if site.name not in warm]
        if not missing or (not self.warmup and self.learning_rate(model) is not None):
            return
        facts = load_requests(self.warmup_facts, limit=self.warmup or WARMUP_BATCH).requests
        if len(facts) < self.warmup:
            raise DataError(
                f"`warmup` asks for {self.warmup} facts, and {name_of_requests(self.warmup_facts)} holds {len(facts)}. Lower it, or "
                "give a larger set of facts as `warmup_facts`."
            )
        gathered: dict[str, WarmUp] = {}  # apart until all is read: one that is interrupted is begun anew
        for start in range(0, len(facts), WARMUP_BATCH):
            targets = answer_gradients(model, tokenizer, facts[start : start + WARMUP_BATCH], missing)
            for site in missing:
                rows = targets.at(site.name)
                lengths = site.values(rows.keys).norm(dim=1, keepdim=True)
                found = WarmUp(self._statistics(rows), RunningStatistics.of(lengths))
                gathered[site.name] = gathered[site.name] + found if site.name in gathered else found
        warm.update(gathered)

    def prepare_forecast(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
    ) -> None:
        """The same.

        Raises:
            SettingError: If other matrices than out-projections are edited, of which no forecast is made.
        """
        if self.modules != OUT_PROJECTION:
            raise SettingError(
                f"EditForecast knows edits of out-projections alone, and `modules` is {self.modules!r}. Choose the layer by edits "
                "(--model.locator LayerSweep), name one (--model.layer), or leave out `modules`."
            )
        self.prepare(model, tokenizer, layers)

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> AnswerGradients:
        """Keys and gradients at all matrices that are edited; see :class:`EditMethod`."""
        self.prepare(model, tokenizer, layers)
        return answer_gradients(model, tokenizer, requests, self._sites(model, layers))

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[AnswerGradients],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """Updates of a rank of the number of tokens; a history holds what was seen at each matrix. See :class:`EditMethod`."""
        self.prepare(model, tokenizer, layers)
        deltas = []
        for group in groups:
            delta = WeightDelta({})
            for site in self._sites(model, layers):
                rows = group.at(site.name)
                seen = self._with_earlier(model, site.name, rows, history)
                b = self.solve_update(model, site, rows, seen)
                delta += WeightDelta.at(site, LowRankUpdate(b.T.to(rows.keys).contiguous(), rows.keys))
                if history is not None:
                    history[site.name] = seen
            deltas.append(delta)
        return deltas

    def solve_update(self, model: PreTrainedModel, site: EditSite, rows: AnswerRows, seen: SeenRows) -> Tensor:
        """(H H^T + ridge I)^-1 V: the same as the paper's system of d_in, as one of n or of d_in unknowns, whichever are fewer.

        Args:
            model: A causal language model.
            site: The matrix.
            rows: The matrix at n positions.
            seen: The statistics that normalise them.

        Returns:
            B^T [n, d_out] of the change B H, in float64.
        """
        keys = rows.keys.double()
        size = seen.keys.normalise(keys).square().sum(1, keepdim=True)
        rate = self.learning_rate(model)
        if rate is None:  # |v| is the rate times d_in sqrt(d_out), in the mean
            outputs = self._warm[model][site.name].outputs.mean.item()
            rate = STEP * outputs / (site.in_features * site.out_features**0.5)
        values = -rate * size * seen.gradients.normalise(rows.gradients)
        if len(keys) > site.in_features:
            return (values - keys @ self._ridged(keys.T @ keys, keys.T @ values)) / self.ridge
        return self._ridged(keys @ keys.T, values)

    def _ridged(self, inner: Tensor, values: Tensor) -> Tensor:
        """(A + ridge I)^-1 V."""
        ridge = self.ridge * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        return torch.linalg.solve(inner + ridge, values)

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """What is written: one vector for each token of the new answer, [B, A, d_out]."""
        each = []
        for keys, gradients in zip(facts.at_answer(facts.inputs), facts.at_answer(facts.gradients), strict=True):
            rows = AnswerRows(keys, gradients * len(keys))  # of a mean over tokens, and here it is the sum
            each.append(
                self.solve_update(model, facts.site, rows, self._with_earlier(model, facts.site.name, rows, None))
            )
        return pad_sequence(each, batch_first=True).to(facts.inputs)

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The inputs at these tokens, [B, A, d_in]."""
        return pad_sequence(facts.at_answer(facts.inputs), batch_first=True)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        names = ("ridge", "modules", "warmup", "whiten")
        read = self.warmup or self.learning_rate(model) is None
        facts = self._warmup_facts if read else {}
        chosen = {name: getattr(self, name) for name in names}
        return {"name": self.name, "learning_rate": self.learning_rate(model), **chosen, **facts}

    @cached_property
    def _warmup_facts(self) -> dict[str, str]:
        """Where the warm-up's facts come from, as it was given, and what tells its content from any other."""
        if self.warmup_facts is None:
            return {"warmup_facts": FACTS}
        return {"warmup_facts": self.warmup_facts, "warmup_facts_hash": source_fingerprint(self.warmup_facts)}

    def _sites(self, model: PreTrainedModel, layers: Sequence[int]) -> list[EditSite]:
        return [site for layer in layers for site in matrices_to_edit(model, layer, self.modules)]

    def _statistics(self, rows: AnswerRows) -> SeenRows:
        return SeenRows(RunningStatistics.of(rows.keys), RunningStatistics.of(rows.gradients, self.whiten))

    def _with_earlier(
        self, model: PreTrainedModel, name: str, rows: AnswerRows, history: dict[Any, Any] | None
    ) -> SeenRows:
        """Statistics of rows and of all that was seen before them.

        Raises:
            DataError: If that is one token, of which no spread can be told.
        """
        earlier = (history or {}).get(name)
        if earlier is None and self.warmup:
            earlier = self._warm[model][name].seen
        seen = self._statistics(rows)
        if earlier is not None:
            seen = earlier + seen
        if seen.keys.count < 2:
            raise DataError(
                f"{self.name} normalises by the spread over the tokens of the new answers so far, and there is one token at {name}. "
                "Edit more requests together, or give `warmup` a number of facts to begin with."
            )
        return seen
