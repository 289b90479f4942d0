"""Causal tracing, also called causal mediation analysis (ROME, arXiv 2202.05262), as people pick layers today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import SettingError
from lga_lightning.locators.base import Evidence, LayerLocator, first_known, knows_old_answer
from lga_lightning.locators.old_answers import all_with_old_targets
from lga_lightning.locators.tracer import EncodedFact, Kind, Tracer, embedding_spread, encode_fact
from lga_lightning.locators.whole_tracer import WholeTracer
from lga_lightning.models.architecture import blocks
from lga_lightning.models.hooks import frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.utils.per_model import PerModel
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS = ("first_subject", "middle_subject", "last_subject", "first_after", "further", "last")


class CausalTracing(LayerLocator):
    """Scores a layer by what restoring the MLPs around it, at the subject's last token, brings back of the answer.

    The subject's embeddings are drowned in noise; in such corrupted runs, the clean outputs of a window of MLPs are put back
    at one token. The indirect effect is the old answer's probability then, less that without. The layer is the
    centre of the window with the highest average indirect effect. Facts that the model gets wrong are skipped.

    Args:
        heat_map: Also find the effects of whole blocks and of attention, and at all groups of tokens: the classic heat map.
            Takes much longer.
        window: How many MLPs (or attentions) are restored together. At the ends of the model, fewer.
        noise: Standard deviation of the noise, in standard deviations of the embeddings of all subject tokens that the run's
            known facts hold.
        copies: Noisy copies of each fact.
        seed: Of the noise, the same for every fact.
    """

    only_known = True

    def __init__(
        self, heat_map: bool = False, window: int = 10, noise: float = 3.0, copies: int = 10, seed: int = 0
    ) -> None:
        super().__init__(kappa=None, aggregate="mean")
        check_at_least_one(window=window, copies=copies)
        if not noise > 0:
            raise SettingError(f"`noise` must be above 0, got {noise}.")
        self.heat_map = heat_map
        self.window = window
        self.noise = noise
        self.copies = copies
        self.seed = seed
        heat = tuple(f"{kind}.{group}" for kind in KINDS for group in GROUPS) if heat_map else ()
        self.columns = ("scores", *heat)
        self._spread: PerModel[float] = PerModel()

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> None:
        """Find out how strong the noise is: from all known facts of the run, so that no batch has a noise of its own."""
        known = first_known(model, tokenizer, requests, len(requests), batch_size=32)
        self._spread[model] = embedding_spread(model, tokenizer, known or requests)

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Indirect effects, for the facts that the model knows; 0 for the others.

        Without a :meth:`prepare` before, the first requests to be scored serve for it.

        Returns:
            Values [B, C, L]. With ``heat_map``, the columns after the first are the means over each group's tokens, NaN where
            a prompt has none of them.
        """
        if model not in self._spread:
            self.prepare(model, tokenizer, requests)
        requests = all_with_old_targets(model, tokenizer, requests)
        known = knows_old_answer(model, tokenizer, requests)
        values = torch.full((len(requests), len(self.columns), len(blocks(model))), torch.nan, dtype=torch.float64)
        values[:, 0] = 0
        with torch.no_grad(), frozen(model):
            for row in known.nonzero().flatten().tolist():
                values[row] = self._trace(model, encode_fact(tokenizer, requests[row], input_device(model)))
        return Evidence(values.float(), known)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """All arguments."""
        names = ("heat_map", "window", "noise", "copies", "seed")
        return {name: getattr(self, name) for name in names}

    def _trace(self, model: PreTrainedModel, fact: EncodedFact) -> Tensor:
        """[C, L] of one fact."""
        first, last = fact.subject
        embedding = model.get_input_embeddings()
        width = embedding(fact.input_ids[:, :1]).shape[-1]
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.copies, last - first + 1, width, generator=generator)
        noise = noise * self.noise * self._spread[model]
        try:
            return self._effects(Tracer(model, fact, noise))
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, TypeError):
            # blocks with states, or that share keys, or take one number of rows alone
            return self._effects(WholeTracer(model, fact, noise))

    def _effects(self, tracer: Tracer) -> Tensor:
        """[C, L] of one fact, by its tracer."""
        fact, (first, last) = tracer.fact, tracer.fact.subject
        if not self.heat_map:
            return tracer.effects(last, ["mlp"], self.window)["mlp"].unsqueeze(0)
        effects = {token: tracer.effects(token, KINDS, self.window) for token in range(first, fact.last + 1)}
        nothing = torch.full((len(tracer.blocks),), torch.nan, dtype=torch.float64)
        rows = [effects[last]["mlp"]]
        for kind in KINDS:
            for tokens in token_groups(fact).values():
                found = [effects[token][kind] for token in tokens]
                rows.append(torch.stack(found).mean(0) if found else nothing)
        return torch.stack(rows)


def token_groups(fact: EncodedFact) -> dict[str, list[int]]:
    """The prompt's tokens from the subject on, by group.

    A subject of one token is its own first and last token, and a prompt's last token is also the last of a subject that
    ends the prompt: such a token is in both groups.
    """
    (first, last), end = fact.subject, fact.last
    groups = (
        [first],
        range(first + 1, last),
        [last],
        range(last + 1, min(last + 2, end + 1)),
        range(last + 2, end),
        [end],
    )
    return {name: list(tokens) for name, tokens in zip(GROUPS, groups, strict=True)}
