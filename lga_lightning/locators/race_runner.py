"""Makes the edits of a race, round by round, on one process or on several."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lga_lightning.data.batching import dealt
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing import EditMethod
from lga_lightning.exceptions import SettingError
from lga_lightning.locators.base import LayerLocator
from lga_lightning.locators.layer_sweep import PARTS, score_edits
from lga_lightning.locators.race import Race, RaceSettings, Round
from lga_lightning.metrics import RequestTable
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ended = Literal["settled", "budget", "requests"]

SHOWN = 3  # layers, in the text of the progress bar


class EditRace:
    """A race of edits on a model, edited and scored as :class:`~lga_lightning.LayerSweep` does it.

    For an editor that spreads an edit over a window of blocks, a layer stands for the window that ends there.

    Args:
        model: A causal language model with L blocks; it is left as it was.
        tokenizer: Its fast tokenizer.
        requests: N requests.
        editor: How facts are edited.
        expected: [N, L] scores that are expected of the edits, from 0 to 1; see :func:`expected_scores`.
        settings: When the race ends.
        batch_size: Requests that are edited at once.

    Attributes:
        race: The race itself.
        values: [N, 4, L] what edits scored: the mean, rewrite, rephrase and locality; NaN where there was no edit.
        seconds: Time that the race took so far.

    Raises:
        InvalidRequest: If the editor needs subjects, and a request has none.
        SettingError: If ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        editor: EditMethod,
        expected: Tensor,
        settings: RaceSettings,
        batch_size: int = 8,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        editor.check_requests(requests)
        self.model, self.tokenizer, self.requests, self.editor = model, tokenizer, requests, editor
        self.batch_size = batch_size
        self.race = Race(expected, settings)
        count, layers = expected.shape
        self.values = torch.full((count, 1 + len(PARTS), layers), torch.nan, dtype=torch.float64)
        self.seconds = 0.0

    @property
    def edited(self) -> list[int]:
        """Positions of the requests that were edited, ascending."""
        return [row for row, known in enumerate(self.race.table.isfinite().any(1).tolist()) if known]

    @property
    def ended(self) -> Ended:
        """Why it is over, once it is: the layer is settled, the budget is used up, or every request was edited."""
        standing = self.race.standing()
        if standing.edits and standing.confidence >= self.race.settings.confidence:
            return "settled"
        return "requests" if len(self.edited) == len(self.requests) else "budget"

    def take_up(self, rows: Sequence[int], values: Tensor, seconds: float) -> None:
        """Begin with edits that were made before.

        Args:
            rows: R positions of requests.
            values: [R, 4, L] what their edits scored.
            seconds: Time that they took.
        """
        self.values[list(rows)] = values.double()
        self.race.table[list(rows)] = values[:, 0].double()
        self.seconds = seconds

    def run(
        self,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        show: bool = False,
        after_round: Callable[[], None] | None = None,
    ) -> None:
        """Race to the end; a collective operation.

        Every process edits its share of a round's requests, sees the scores of all, and takes the same decisions.

        Args:
            rank: Number of this process.
            world_size: Number of processes.
            device: Where scores are exchanged; the model's device by default.
            show: Whether to show who leads, where there is a terminal.
            after_round: Called after each round.

        Raises:
            SettingError: If the budget is not enough for a single round.
        """
        from tqdm import tqdm

        _, limit = self.race.settings.limits
        total = self.race.budget if limit is None else None
        with tqdm(total=total, initial=self.race.edits, unit=" edits", disable=None if show else True) as bar:
            while (limit is None or self.seconds < limit) and (round := self.race.next_round()) is not None:
                bar.set_description(self._who_leads())
                self._edit(round, rank, world_size, device or input_device(self.model))
                bar.update(round.edits)
                if after_round is not None:
                    after_round()
            bar.set_description(self._who_leads())
        if not self.race.edits:
            raise SettingError(
                f"A budget of {self.race.budget} edits of {len(self.requests)} requests is not enough for one request at "
                "two layers. Give a higher budget (--verify.budget)."
            )

    def _edit(self, round: Round, rank: int, world_size: int, device: torch.device) -> None:
        """Make a round's edits, and take in what all processes found."""
        begun = time.perf_counter()
        places = [self.editor.window_at(layer) for layer in round.layers]
        self.editor.prepare(self.model, self.tokenizer, sorted({layer for place in places for layer in place}))
        table = RequestTable("values", "seconds").to(device)
        mine = dealt(round.requests, rank, world_size)
        for start in range(0, len(mine), self.batch_size):
            rows = mine[start : start + self.batch_size]
            asked = [self.requests[row] for row in rows]
            values = score_edits(self.model, self.tokenizer, asked, self.editor, places)
            seconds = torch.full((len(rows),), time.perf_counter() - begun)
            table.update(torch.tensor(rows), values=values.float(), seconds=seconds)
        index, values, seconds = (column.cpu() for column in table.compute())
        wanted = torch.tensor(round.requests)
        values = values[torch.searchsorted(index, wanted)].double()
        self.values[wanted.unsqueeze(1), :, torch.tensor(round.layers)] = values.transpose(1, 2)
        self.race.add(round, values[:, 0])
        self.seconds += seconds.max().item()  # the slowest process's, so that all agree when the time is up

    def _who_leads(self) -> str:
        standing = self.race.standing()
        order = sorted(range(len(standing.scores)), key=lambda layer: (-standing.scores[layer], layer))
        return f"race: layers {' '.join(map(str, order[:SHOWN]))} lead, {standing.confidence:.0%} sure"


def expected_scores(locator: LayerLocator, scores: Tensor) -> Tensor:
    """What edits are expected to score, by a locator's evidence: where a race begins.

    A locator whose scores are those of edits, made or forecast, says it by itself. Of any other, whose scores are in units of
    their own, only the order of the layers counts (those outside the fences come last): the layers are as far apart as forecasts
    err.

    Args:
        locator: The locator.
        scores: [N, L] its scores.

    Returns:
        [N, L] from 0 to 1, in float64.
    """
    if locator.aggregate == "mean" and {"rewrite", "expected_rewrite"} & set(locator.columns):
        return (len(scores) * locator.contributions(scores)).clamp(0, 1)
    ranking = locator.choose(scores, resamples=1).ranking
    place = torch.empty(len(ranking), dtype=torch.float64)
    place[ranking] = torch.linspace(1, -1, len(ranking), dtype=torch.float64)
    spread = place.std(correction=0).clamp_min(torch.finfo(place.dtype).tiny)
    row = 0.5 + Race.ERROR / 100 * (place - place.mean()) / spread
    return row.expand(len(scores), -1)
