"""What the gradients of the old and of the new answer say about each block (arXiv 2602.20207)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lga_lightning.data.requests import EditRequest
from lga_lightning.exceptions import SettingError
from lga_lightning.locators.aggregation import Aggregate
from lga_lightning.locators.base import Evidence, LayerLocator
from lga_lightning.locators.gram import matrix_gram, norm_gram, vector_gram
from lga_lightning.locators.old_answers import all_with_old_targets
from lga_lightning.metrics.accuracy import token_accuracy
from lga_lightning.models.answers import read_answers
from lga_lightning.models.architecture import SCOPES, Scope, scored_sites
from lga_lightning.models.encoding import EncodedAnswers, encode_answers, with_prompts
from lga_lightning.models.hooks import OutputGradients, frozen, per_row
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.sites import Site
from lga_lightning.models.structure import is_matrix, normalised

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Statistic = Literal["dot", "cosine", "new_norm", "dot_per_old_norm", "dot_per_new_norm"]
STATISTICS: tuple[str, ...] = get_args(Statistic)
Loss = Literal["answer", "text"]
LOSSES: tuple[str, ...] = get_args(Loss)


class GradientLocator(LayerLocator):
    """Scores a block by the gradients of the old and of the new answer's loss.

    Old and new answers go through the frozen model in one batch, one forward and one backward pass. The products are
    formed from activations and their gradients while the backward pass runs; weights need no gradient.
    :class:`~lga_lightning.locators.LGA` and :class:`~lga_lightning.locators.ValueGradient` are two subclasses of it.

    Args:
        scope: What gradients are taken of. Parameters: ``mlp`` (all matrices of the MLP), ``mlp_out`` (its out-projection, the
            matrix that is edited), ``attention`` (all matrices of the attention), ``block`` (every parameter). Or
            ``value``: the output of the out-projection at the subject's last token, which is what an edit sets (v in ROME).
        kappa: Width of the Tukey fences, in interquartile ranges; None for no fences.
        aggregate: How requests are added up, see :func:`~lga_lightning.locators.aggregation.contributions`: ``sum`` as they
            are, ``absolute`` their absolute values, ``normalised`` each request's scores over the sum of their absolute values, and others.
        statistic: What is compared. ``dot``: <g_old, g_new>; it is positive where the model knows neither answer and negative
            where it knows the old one, at all layers alike, so with facts that the model knows its sum favours layers that
            have *little* to do with the answer. ``new_norm``: |g_new|. ``cosine``; ``dot_per_old_norm``
            <g_old, g_new> / |g_old|; ``dot_per_new_norm`` <g_old, g_new> / |g_new|.
        neighbours: A layer's contributions are the means over it and so many layers on either side.
        loss: What the loss is a mean over. ``answer``: the answer's tokens. ``text``: all tokens of prompt and answer but the very
            first; both gradients then share the prompt's terms, which lift ``dot`` at all layers. Whether a request is known is
            judged by the answer's tokens alone.
    """

    columns = ("scores", "cosine", "old_norm", "new_norm")

    def __init__(
        self,
        scope: Scope,
        kappa: float | None,
        aggregate: Aggregate,
        statistic: Statistic,
        neighbours: int,
        loss: Loss = "answer",
    ) -> None:
        super().__init__(kappa, aggregate, neighbours)
        if scope not in SCOPES:
            raise SettingError(f"`scope` must be one of {list(SCOPES)}, got {scope!r}.")
        if statistic not in STATISTICS:
            raise SettingError(f"`statistic` must be one of {list(STATISTICS)}, got {statistic!r}.")
        if loss not in LOSSES:
            raise SettingError(f"`loss` must be one of {list(LOSSES)}, got {loss!r}.")
        self.scope: Scope = scope
        self.statistic: Statistic = statistic
        self.loss: Loss = loss

    @property
    def needs_subject(self) -> bool:
        """For values at the subject's last token, not for the gradients of weights."""
        return self.scope == "value"

    @torch.inference_mode(False)  # what batches are made of is saved for the way back
    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
    ) -> Evidence:
        """Per-request scores (the statistic), cosines and gradient norms of every block.

        Args:
            model: A causal language model, on any device, in any dtype.
            tokenizer: Its fast tokenizer.
            requests: B requests; where one has no old target, the model's own answer takes its place.

        Returns:
            Values [B, 4, L] in the order of ``columns``, on the device of the token ids.

        Raises:
            DataError: If a request has no old target, and the model's own answer cannot take its place.
        """
        requests = all_with_old_targets(model, tokenizer, requests)
        batch = encode_pairs(tokenizer, requests).to(input_device(model))
        whole = self.loss == "text"
        gram, predicted = gradient_grams(model, with_prompts(batch) if whole else batch, self.scope)
        # a gradient of zero may come out a rounding error below zero
        old, new = (gram[..., side, side].clamp_min(0).sqrt() for side in range(2))
        dot = gram[..., 0, 1]
        cosine = dot / (old * new).clamp_min(torch.finfo(dot.dtype).tiny)
        scores = gradient_statistics(dot, cosine, old, new)[self.statistic]
        values = torch.stack([scores, cosine, old, new], dim=1)
        if whole:  # at every position: take those of the answer
            predicted = predicted.gather(1, batch.positions.to(predicted.device))
        right = token_accuracy(predicted, batch.labels)
        return Evidence(values, known=right[::2] == 1)

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Scope, statistic and loss."""
        return {"scope": self.scope, "statistic": self.statistic, "loss": self.loss}


def gradient_statistics(dot: Tensor, cosine: Tensor, old: Tensor, new: Tensor) -> dict[str, Tensor]:
    """All statistics of the same gradients.

    Args:
        dot: Their inner products.
        cosine: Their cosines.
        old: Norms of those of the old answer.
        new: Norms of those of the new answer.
    """
    tiny = torch.finfo(dot.dtype).tiny
    return {
        "dot": dot,
        "cosine": cosine,
        "new_norm": new,
        "dot_per_old_norm": dot / old.clamp_min(tiny),
        "dot_per_new_norm": dot / new.clamp_min(tiny),
    }


def encode_pairs(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
    """The old (row 2i) and the new answer (row 2i + 1) of every request i.

    Raises:
        ValueError: If a request has no old target.
    """
    answers: list[str] = []
    for request in requests:
        if request.target_old is None:
            raise ValueError(
                f"Gradients of the old answer need an old target; the request {request.prompt!r} has none."
            )
        answers += [request.target_old, request.target_new]
    prompts = [request.prompt for request in requests for _ in range(2)]
    ends = [request.anchor_end for request in requests for _ in range(2)]
    return encode_answers(tokenizer, prompts, answers, ends)


def gradient_grams(model: PreTrainedModel, batch: EncodedAnswers, scope: Scope) -> tuple[Tensor, Tensor]:
    """Inner products between the gradients of the two answers' losses, over each block's parameters or its value.

    Args:
        model: A causal language model with L blocks.
        batch: 2B rows, 2i and 2i + 1 the two answers of request i, on the model's device; the losses are means over their labels.
        scope: What gradients are taken of.

    Returns:
        [B, L, 2, 2] Gram matrices, and the most likely tokens [2B, A] at the batch's positions.
    """
    batch, sites = batch.as_read(), scored_sites(model, scope)
    grams: list[Tensor | None] = [None] * len(sites)
    rows = torch.arange(len(batch))

    def receive(key: tuple[int, Site], inputs: Tensor, gradients: Tensor) -> None:
        layer, site = key
        inputs, gradients = per_row(inputs, len(batch)), per_row(gradients, len(batch))
        if scope == "value":
            gram = vector_gram(gradients[rows, batch.subject.to(gradients.device)])
        else:
            gram = _site_gram(site.module, inputs, gradients, site.bias)
        sum_so_far = grams[layer]
        grams[layer] = gram if sum_so_far is None else sum_so_far + gram

    watcher = OutputGradients(receive)
    modules: list[tuple[tuple[int, Site], nn.Module]] = [
        ((layer, site), site.module) for layer, found in enumerate(sites) for site in found
    ]
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), watcher.watch(modules):
        answers = read_answers(model, batch)
        scales = loss_scales(answers.nll, model.dtype)
        # the sum, not the mean: requests do not scale each other
        watcher.backward((answers.nll * scales).sum())
    found = torch.stack([gram.to(batch.labels.device) for gram in grams if gram is not None], dim=1)
    of_pairs = scales.view(-1, 1, 2).to(found)
    return found / (of_pairs.unsqueeze(3) * of_pairs.unsqueeze(2)), answers.predicted


def loss_scales(nll: Tensor, dtype: torch.dtype) -> Tensor:
    """By what to multiply losses, lest their gradients vanish in float16: those of answers that the model is sure of are below 1e-7.

    Args:
        nll: [N] losses in nats.
        dtype: What gradients are computed in.

    Returns:
        [N] powers of two: about 1 / nll where it is below 1, so that no gradient becomes longer than that of an answer that is open;
        1 for all dtypes but float16.
    """
    if dtype != torch.float16:
        return torch.ones_like(nll)
    return torch.exp2(-nll.detach().clamp(2**-14, 1).log2().round())


def _site_gram(module: nn.Module, inputs: Tensor, gradients: Tensor, bias: bool) -> Tensor:
    if is_matrix(module):
        return matrix_gram(inputs, gradients, bias)
    return norm_gram(normalised(module, inputs), gradients, bias)
