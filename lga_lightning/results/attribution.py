"""``attribution.json``: a golden layer with all that led to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.first_order import window_ending_at
from lga_lightning.exceptions import DataError, LayerError
from lga_lightning.locators.aggregation import RelationLayers, requests_to_settle
from lga_lightning.locators.base import LayerLocator
from lga_lightning.locators.causal_tracing import GROUPS, KINDS
from lga_lightning.locators.expert_shares import ExpertShare, expert_shares
from lga_lightning.locators.layer_sweep import PARTS
from lga_lightning.locators.score_requests import SKIPPED
from lga_lightning.locators.selection import Choice
from lga_lightning.models.weights import weights_mark
from lga_lightning.results.files import FieldError, ResultFile, take, take_fields, write_result
from lga_lightning.results.race import RaceResult
from lga_lightning.results.typed import typed
from lga_lightning.results.versions import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTRIBUTION_FILE = "attribution.json"

_FILE = ResultFile(
    what="an attribution",
    verb="lga fit",
    error=LayerError,
    missing="There is no attribution at {path}. Run `lga fit` first (with the same --trainer.default_root_dir), or give "
    "--model.layer a number, a range (4-8), `all`, `default`, or the path of an attribution.json.",
)

FEW_REQUESTS = 30
"""Of fewer requests, resamples are too much alike for their agreement to settle anything."""


@dataclass(frozen=True)
class LocatorResult:
    """A golden layer with all that led to it; the content of ``attribution.json``.

    Attributes:
        model: Name of the model, as the user gave it.
        data: Name of the proxy set.
        locator: Class name of the locator.
        scope: Which parameters of a block counted; None for a locator without scopes.
        aggregate: How the requests were added up.
        num_requests: How many requests counted.
        num_skipped: How many did not, by reason.
        choice: Scores, fences, golden layer and confidence.
        signed_scores: [L] sums of the signed scores, whatever the aggregate.
        means: By name, [L] means over requests of the locator's other columns (cosine, old_norm, new_norm).
        versions: Versions of the packages that made it.
        settings: All that the locator's evidence depends on.
        half_widths: By the same names, [L] 1.96 sigma / sqrt(n) of each of the means.
        requests_to_settle: About how many requests would settle the choice; None where it is settled, or there is no telling.
        stopped_early: ``{"after": 64, "of": 129, "confidence": 0.95}`` for a run that ended before its last request.
        relations: A layer for each relation, where the data has relations.
        seconds: How long the scores took; None where nobody looked.
        neighbours: How many layers on either side shared their evidence.
        race: What a race of real edits made of it; None where there was none.
        weights: Mark of the weights that were scored, see :func:`~lga_lightning.models.weights.weights_mark`; None where unknown.
        experts: The routed experts of the golden layer, the one that edits change most first; none where its shared expert is edited in their
            place, and None where there are none, or nobody looked.
    """

    model: str
    data: str
    locator: str
    scope: str | None
    aggregate: str
    num_requests: int
    num_skipped: dict[str, int]
    choice: Choice
    signed_scores: list[float]
    means: dict[str, list[float]]
    versions: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    half_widths: dict[str, list[float]] = field(default_factory=dict)
    requests_to_settle: int | None = None
    stopped_early: dict[str, float] | None = None
    relations: RelationLayers | None = None
    seconds: float | None = None
    neighbours: int = 0
    race: RaceResult | None = None
    weights: str | None = None
    experts: list[ExpertShare] | None = None

    @classmethod
    def from_scores(
        cls,
        locator: LayerLocator,
        llm: PreTrainedModel,
        index: Tensor,
        values: Tensor,
        status: Tensor,
        *,
        model_name: str,
        data_name: str,
        requests: Sequence[EditRequest],
        skipped: Mapping[str, int] | None = None,
        seconds: float | None = None,
        stop_at_confidence: float | None = None,
        stopped: bool = False,
    ) -> LocatorResult:
        """Choose the layer from the evidence on all requests.

        Args:
            locator: What has scored the layers.
            llm: The model whose L layers they are.
            index: [N] positions of the scored requests in ``requests``.
            values: [N, C, L] the locator's columns, the score first.
            status: [N] 0 where a request counts, else a key of ``SKIPPED``.
            model_name: Name of the model, as the user gave it.
            data_name: Name of the proxy set.
            requests: The whole proxy set.
            skipped: How many records of the data gave no request, by reason; None for none.
            seconds: How long the scores took; None where nobody looked.
            stop_at_confidence: The confidence at which the run was to end before its last request, if it was.
            stopped: Whether it was told to end.

        Raises:
            DataError: If no request counts.
        """
        counted = values[status == 0].cpu()
        scores = counted[:, 0]
        reasons = Counter(skipped or {}) + Counter({why: int((status == code).sum()) for code, why in SKIPPED.items()})
        if not len(counted):
            why = ", ".join(f"{reason} ({count})" for reason, count in reasons.items() if count)
            raise DataError(f"No proxy request of {data_name} is left to score layers by: {why}.")
        choice = locator.choose(scores)
        alternatives = [layer for layer in choice.confidence_set if layer != choice.golden_layer]
        means, half_widths = means_by_layer(counted, locator.columns)
        early = None
        if stopped and stop_at_confidence is not None and len(index) < len(requests):
            early = {"after": len(index), "of": len(requests), "confidence": stop_at_confidence}
        relations = [requests[row].relation for row in index[status == 0].tolist()]
        return cls(
            model=model_name,
            data=data_name,
            locator=type(locator).__name__,
            scope=locator.scope,
            aggregate=locator.aggregate,
            num_requests=len(counted),
            num_skipped=dict(reasons),
            choice=choice,
            signed_scores=scores.double().sum(0).tolist(),
            means=means,
            versions=versions(),
            settings=locator.settings(llm),
            half_widths=half_widths,
            requests_to_settle=requests_to_settle(locator.contributions(scores), choice.golden_layer, alternatives[0])
            if alternatives
            else None,
            stopped_early=early,
            relations=locator.choose_by_relation(scores, relations),
            seconds=seconds,
            neighbours=locator.neighbours,
            weights=weights_mark(llm),
        )

    def with_experts(
        self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> LocatorResult:
        """The same with what edits at the golden layer would change of each of its routed experts, where it has some.

        Args:
            llm: The model.
            tokenizer: Its fast tokenizer.
            requests: The requests that counted.
        """
        return replace(self, experts=expert_shares(llm, tokenizer, requests, self.golden_layer))

    @property
    def golden_layer(self) -> int:
        """Index of the golden layer: the race's winner (of a window, its last block) where there was a race."""
        return self.choice.golden_layer if self.race is None else self.race.layer

    @property
    def editor(self) -> dict[str, Any]:
        """Settings of the method whose edits are forecast, swept or raced, its ``name`` among them; empty for scores that are of no method."""
        if self.race is not None:
            return self.race.editor
        return self.settings.get("editor", {}) if self.is_forecast or self.is_sweep else {}

    @property
    def method(self) -> str | None:
        """Name of the method whose edits are forecast, swept or raced; None for scores that are of no method."""
        return self.editor.get("name")

    @property
    def window(self) -> int:
        """Number of blocks that a layer stands for: the last of them where edits that spread over a window are forecast or swept, else one."""
        size: int = self.settings.get("editor", {}).get("window", 1) if self.is_forecast or self.is_sweep else 1
        return size

    @property
    def golden_layers(self) -> list[int]:
        """The golden layer, or all blocks of the window that it stands for, ascending."""
        if self.race is not None:
            return self.race.layers
        return window_ending_at(self.golden_layer, self.window)

    @property
    def confidence(self) -> float:
        """How sure the golden layer is, from 0 to 1; of one of two things.

        After a race, the probability that it is within the race's tolerance of the best of all layers. Without one, the share of
        bootstrap resamples of the requests that choose it: how stable the choice is, which does not say whether it is right.
        """
        return self.choice.confidence if self.race is None else self.race.confidence

    @property
    def settled(self) -> bool:
        """Whether 90% of the resamples choose the golden layer, of enough requests that this means something.

        A handful of requests makes each resample much like the others. A locator that says the same of every request needs none.
        """
        told_apart = any(self.choice.standard_errors)  # NaN, of one request, counts
        return self.choice.settled and (self.num_requests >= FEW_REQUESTS or not told_apart)

    @property
    def is_sweep(self) -> bool:
        """Whether the scores are what edits scored at each layer: the evidence is that of a :class:`~lga_lightning.LayerSweep`."""
        return set(PARTS) <= set(self.means)

    @property
    def is_forecast(self) -> bool:
        """Whether the scores are what edits are expected to score at each layer: ``expected_rewrite`` and so on are in the means."""
        return {f"expected_{part}" for part in PARTS} <= set(self.means)

    @property
    def verified(self) -> bool:
        """Whether real edits had the last word."""
        return self.race is not None

    @property
    def scored_layers(self) -> list[int]:
        """The layers that have scores: all, or of a sweep over some of them (``LayerSweep(layers=...)``) those that it edited."""
        layers = range(len(self.choice.scores))
        if not self.is_sweep:
            return [*layers]
        return [layer for layer in layers if any(isfinite(self.means[part][layer]) for part in PARTS)]

    @property
    def edit_scores(self) -> list[float]:
        """[L] what edits score in the mean, by forecast, sweep or race, in points; NaN at layers that have no score."""
        if self.race is not None:
            return self.race.scores
        scored = {*self.scored_layers}
        return [100 * score if layer in scored else nan for layer, score in enumerate(self.choice.scores)]

    @property
    def edit_intervals(self) -> list[tuple[float, float]]:
        """[L] 95% intervals of the ``edit_scores``, within 0 to 100 where these are; NaN where a single request tells nothing of them."""
        scores = self.edit_scores
        if self.race is not None:
            ends = self.race.intervals
        else:
            halves = [196 * error for error in self.choice.standard_errors]
            ends = [(score - half, score + half) for score, half in zip(scores, halves, strict=True)]
        return [
            (max(low, min(score, 0.0)), min(high, max(score, 100.0)))
            for score, (low, high) in zip(scores, ends, strict=True)
        ]

    @property
    def has_heat_map(self) -> bool:
        """Whether the evidence is enough for the heat map of causal tracing: effects by kind of output and group of tokens."""
        return all(f"{kind}.{group}" in self.means for kind in KINDS for group in GROUPS)

    def save(self, path: Path) -> None:
        """Write the file, whole."""
        content = asdict(self)
        choice, means, made_with = content.pop("choice"), content.pop("means"), content.pop("versions")
        scores, errors = choice.pop("scores"), choice.pop("standard_errors")
        signed = content.pop("signed_scores")
        by_layer = {"scores": scores, "standard_errors": errors, "signed_scores": signed, **means}
        write_result(path, {**content, **by_layer, **choice, "versions": made_with})

    @classmethod
    def load(cls, path: Path) -> LocatorResult:
        """Read a file: the columns of means are those that ``half_widths`` names.

        Raises:
            LayerError: If there is no such file, it is not an attribution, or it lacks a field or has one that is unknown.
        """
        with _FILE.reading(path) as content:
            of_choice, columns = [f.name for f in fields(Choice)], tuple(content.get("half_widths", ()))
            choice = Choice(**take_fields(Choice, content, known=content))
            found = take_fields(
                cls, content, optional=("choice", "means", "race", "weights", "experts"), known=(*of_choice, *columns)
            )
            means = {name: take(content, name) for name in columns}
            return typed(cls(**found, choice=choice, means=means))._with_layers_that_exist()

    def _with_layers_that_exist(self) -> LocatorResult:
        """Itself, where all that is said by layer is said of the same layers, and no other layer is named."""
        choice, race = self.choice, self.race
        count = len(choice.scores)
        columns: dict[str, Sequence[Any]] = {
            "standard_errors": choice.standard_errors,
            "signed_scores": self.signed_scores,
        }
        columns |= self.means | {f"half_widths of {name}": column for name, column in self.half_widths.items()}
        named = [*choice.ranking, *choice.excluded, *choice.confidence_set, choice.golden_layer]
        if self.relations is not None:
            named += self.relations.golden_layers
        if race is not None:
            columns |= {"edited": race.edited, "intervals": race.intervals, "scores of the race": race.scores}
            columns |= race.parts
            named += [*race.layers, race.layer]
        for name, column in columns.items():
            if len(column) != count:
                raise FieldError(f"has {len(column)} numbers as {name!r}, where {count} should be, one for each layer")
        for layer in named:
            if not 0 <= layer < count:
                raise FieldError(f"names layer {layer}, where there are {count}")
        if sorted(choice.ranking) != list(range(count)) or choice.ranking[0] != choice.golden_layer:
            raise FieldError("has a ranking that is not one of all layers, the golden one first")
        return self


def means_by_layer(values: Tensor, columns: tuple[str, ...]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Means over requests of all columns but the first, the score, and 1.96 sigma / sqrt(n) of each.

    Args:
        values: [N, C, L] evidence, NaN where a request says nothing.
        columns: The names of the C columns.
    """
    means, half_widths = {}, {}
    for column, name in enumerate(columns[1:], start=1):
        found = values[:, column].double()
        count = found.isfinite().sum(0)
        mean = found.nanmean(0)
        variance = ((found - mean) ** 2).nansum(0) / (count - 1)  # NaN or infinite for a single request
        means[name], half_widths[name] = mean.tolist(), (1.96 * (variance / count).sqrt()).tolist()
    return means, half_widths
