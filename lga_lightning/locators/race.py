"""A race of edits: a forecast names layers, a few real edits decide among them.

Successive halving (Karnin, Koren and Somekh, ICML 2013; Jamieson and Talwalkar, arXiv 1502.07943) with a prior: the forecast is
where the layers start from, and all layers stay in the reckoning, those that are never edited too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lga_lightning.exceptions import SettingError


@dataclass(frozen=True)
class RaceSettings:
    """When a race ends, and how it is run.

    Attributes:
        budget: Edits at most: a number; ``"5 min"`` for a time; None for a tenth of a sweep over as many requests.
        tolerance: Points that the layer may be behind the best one.
        confidence: Probability of that at which the race ends.
        candidates: Layers that start, at most.
        requests: Requests that are edited at every layer of a round.
    """

    budget: int | str | None = None
    tolerance: float = 1.0
    confidence: float = 0.95
    candidates: int = 4
    requests: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or not self.tolerance > 0 or self.candidates < 2 or self.requests < 1:
            raise SettingError(
                "A race needs a `confidence` between 0 and 1, a `tolerance` above 0, at least 2 `candidates` and at least 1 of "
                f"`requests`, got {self.confidence}, {self.tolerance}, {self.candidates} and {self.requests}."
            )
        self.limits  # noqa: B018 - a budget that cannot be read fails here

    @property
    def limits(self) -> tuple[int | None, float | None]:
        """Most edits and most seconds; None for no such limit."""
        if self.budget is None:
            return None, None
        words = str(self.budget).split()
        try:
            number = float(words[0])
            unit = {"min": 60.0, "minutes": 60.0, "s": 1.0, "h": 3600.0}[words[1]] if len(words) == 2 else None
            if len(words) > 2 or not number > 0 or (unit is None and not 1 <= number < math.inf):
                raise ValueError
        except (ValueError, KeyError, IndexError):
            raise SettingError(
                f"The budget of a race must be a number of edits (200) or a time ('5 min'), got {self.budget!r}."
            ) from None
        return (int(number), None) if unit is None else (None, number * unit)


@dataclass(frozen=True)
class Round:
    """What is edited next.

    Attributes:
        requests: Positions of the requests.
        layers: Layers at each of which every one of them is edited, the likeliest first.
    """

    requests: list[int]
    layers: list[int]

    @property
    def edits(self) -> int:
        """How many edits it takes."""
        return len(self.requests) * len(self.layers)


@dataclass(frozen=True)
class Standing:
    """How a race stands.

    Attributes:
        layer: The layer that leads.
        confidence: Probability that it is within the tolerance of the best of all layers.
        scores: [L] expected scores, in points.
        intervals: [L] their 95% intervals.
        edits: Edits so far.
        edited: [L] requests that were edited at each layer.
    """

    layer: int
    confidence: float
    scores: list[float]
    intervals: list[tuple[float, float]]
    edits: int
    edited: list[int]


class Race:
    """Which layer to edit, from forecasts and as few edits as will do.

    The belief about the layers' scores is Gaussian. It begins at the forecast, which errs by ``ERROR`` points at a layer, and alike
    at neighbouring layers; every edit adds what it scored, less what its request scores at all layers (requests differ more
    than layers do). A round edits the next requests at the layers that are likeliest within the tolerance of the best: at most
    ``candidates`` in the first, half as many in each after it, never fewer than two.

    The state is the table of the edits' scores alone, so a race goes on from it wherever it stopped.

    Args:
        expected: [N, L] expected scores of N requests at L layers, from 0 to 1.
        settings: When it ends.
        seed: Of the order of the requests, and of draws from the belief.

    Attributes:
        table: [N, L] what edits scored, from 0 to 1; NaN where there was none.
    """

    ERROR = 4.0
    """Standard deviation of a forecast's error at a layer, in points."""
    REACH = 3.0
    """Layers over which errors are alike: the correlation falls by 1/e."""
    SPREAD = 20.0
    """Standard deviation of an edit's score about its request's and its layer's, in points, before any are seen."""

    def __init__(self, expected: Tensor, settings: RaceSettings, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self.expected = 100 * expected.double().cpu()
        self.table = torch.full(expected.shape, torch.nan, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(len(expected), generator=generator).tolist()

    @property
    def budget(self) -> int:
        """Edits at most."""
        edits, seconds = self.settings.limits
        if edits is None and seconds is None:
            return max(self.table.numel() // 10, 2)
        return self.table.numel() if edits is None else edits

    @property
    def edits(self) -> int:
        """Edits so far."""
        return int(self.table.isfinite().sum())

    def next_round(self) -> Round | None:
        """What to edit next; None when the race is over: it is settled, or the budget or the requests are used up."""
        standing, samples = self._look()
        done = [row for row in self._order if self.table[row].isfinite().any()]
        if done and standing.confidence >= self.settings.confidence:
            return None
        rounds = math.ceil(len(done) / self.settings.requests)
        starters = min(self.settings.candidates, self.table.shape[1])
        count = max(2, starters >> rounds)
        near = (samples.amax(1, keepdim=True) - samples <= self.settings.tolerance).double().mean(0)
        mean = samples.mean(0)
        order = sorted(range(len(near)), key=lambda layer: (-near[layer].item(), -mean[layer].item(), layer))
        layers = order[:count]
        if standing.layer not in layers:
            layers = [standing.layer, *layers[:-1]]
        rest = [row for row in self._order if not self.table[row].isfinite().any()]
        left = self.budget - self.edits
        layers = layers[: max(2, min(len(layers), left))]  # a budget of a few edits still makes a round
        take = min(self.settings.requests, len(rest), left // len(layers))
        return Round(rest[:take], layers) if take > 0 else None

    def add(self, round: Round, scores: Tensor) -> None:
        """Take in what a round's edits scored.

        Args:
            round: The round.
            scores: [requests, layers] scores, from 0 to 1.
        """
        rows, columns = torch.tensor(round.requests), torch.tensor(round.layers)
        self.table[rows.unsqueeze(1), columns] = scores.double().cpu()

    def standing(self) -> Standing:
        """How it stands."""
        return self._look()[0]

    def _look(self, draws: int = 4000) -> tuple[Standing, Tensor]:
        mean, covariance = self.belief()
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(draws, len(mean), generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(len(mean), dtype=torch.float64))
        samples = mean + noise @ factor.T
        layer = int(mean.argmax())
        behind = samples.amax(1) - samples[:, layer]
        half = 1.96 * covariance.diagonal().clamp_min(0).sqrt()
        intervals = list(zip((mean - half).tolist(), (mean + half).tolist(), strict=True))
        confidence = (behind <= self.settings.tolerance).double().mean().item()
        edited = self.table.isfinite().sum(0).tolist()
        return Standing(layer, confidence, mean.tolist(), intervals, self.edits, edited), samples

    def belief(self) -> tuple[Tensor, Tensor]:
        """Mean [L] and covariance [L, L] of the layers' scores, in points."""
        layers = self.table.shape[1]
        place = torch.arange(layers, dtype=torch.float64)
        prior = self.ERROR**2 * torch.exp(-(place.unsqueeze(1) - place).abs() / self.REACH)
        start = self.expected.mean(0)
        edited = self.table.isfinite()
        several = edited.sum(1) > 1
        if not several.any():
            return start, prior
        # a request's own level is unknown: it goes out with the mean over the layers that it was edited at
        mask = edited[several].double()
        values = 100 * self.table[several].nan_to_num()
        count = mask.sum(1, keepdim=True)
        centred = (values - values.sum(1, keepdim=True) / count) * mask
        information = torch.diag(mask.sum(0)) - (mask / count).T @ mask
        variance = self._variance(centred, mask)
        precision = torch.linalg.inv(prior)
        covariance = torch.linalg.inv(precision + information / variance)
        mean = covariance @ (precision @ start + centred.sum(0) / variance)
        return mean, (covariance + covariance.T) / 2

    def _variance(self, centred: Tensor, mask: Tensor, weight: float = 20.0) -> float:
        """Variance of an edit's score about its request's and its layer's: what is seen, and ``SPREAD`` as so many more edits."""
        offsets = centred.sum(0) / mask.sum(0).clamp_min(1)
        residual = ((centred - offsets) * mask).square().sum().item()
        freedom = max(0.0, float(mask.sum() - len(mask) - (mask.sum(0) > 0).sum() + 1))
        return (weight * self.SPREAD**2 + residual) / (weight + freedom)
