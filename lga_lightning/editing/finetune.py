"""FT-L and FT-M: plain fine-tuning of the matrices that the other methods edit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.base import EditMethod, EditTargets
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.target_value import RowAdam
from lga_lightning.editing.updates import DenseUpdate
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import EditSite, edit_site
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import encode_answers
from lga_lightning.models.hooks import added_to_output, frozen
from lga_lightning.models.likelihood import answer_nll, input_device
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest
    from lga_lightning.models.encoding import EncodedAnswers


class FineTuning(EditMethod):
    """Adam on the out-projections' matrices, kept close to the old ones (FT-L of the ROME paper, as in EasyEdit).

    A group of requests is gone through in batches of ``batch_size``, ``steps`` times, with a step of Adam after each batch.

    Args:
        steps: Number of rounds over a group's requests.
        learning_rate: Learning rate of Adam.
        epsilon: Bound of the change of every entry; None for no bound.
        stop_loss: Mean loss over a round below which a group is done.
        batch_size: Number of requests of one group in a step.
    """

    needs_subject = False

    def __init__(
        self,
        steps: int = 25,
        learning_rate: float = 5e-4,
        epsilon: float | None = 5e-4,
        stop_loss: float = 0.01,
        batch_size: int = 8,
    ) -> None:
        if steps < 1 or batch_size < 1 or not learning_rate > 0 or not stop_loss >= 0:
            raise SettingError(
                "`steps` and `batch_size` must be at least 1, `learning_rate` above 0 and `stop_loss` at least 0, got "
                f"{steps}, {batch_size}, {learning_rate} and {stop_loss}."
            )
        if epsilon is not None and not epsilon > 0:
            raise SettingError(f"`epsilon` must be above 0, or left out for no limit, got {epsilon}.")
        self.steps = steps
        self.learning_rate = learning_rate
        self.epsilon = epsilon
        self.stop_loss = stop_loss
        self.batch_size = batch_size

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """Prompts with new answers, and where each answer token is scored."""

    def default_layers(self, model: PreTrainedModel) -> list[int]:
        """One block; see :func:`preset_for`."""
        return [preset_for(model).tuned_layer]

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> EditTargets:
        """The requests alone: there is nothing to find out before writing."""
        return EditTargets(list(requests))

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layers: Sequence[int],
        history: dict[Any, Any] | None = None,
    ) -> list[WeightDelta]:
        """Dense updates, of all groups side by side; see :class:`EditMethod`."""
        sites = [edit_site(model, layer) for layer in layers]
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            batches = [
                self._batch(model, tokenizer, groups, layers[0], number) for number in range(self._batches(groups))
            ]
            like = at_least_float32(torch.empty(0, dtype=model.dtype, device=sites[0].weight.device))
            changes = [like.new_zeros(len(groups), site.out_features, site.in_features) for site in sites]
            optimizers = [RowAdam(change, self.learning_rate) for change in changes]
            unfinished = torch.ones(len(groups), dtype=torch.bool)
            for _ in range(self.steps):
                total, count = torch.zeros(2, len(groups), dtype=torch.float64)
                for rows, owner in batches:
                    taken = unfinished[owner].nonzero().squeeze(1)
                    if not len(taken):
                        continue
                    part = rows.select(taken.to(rows.batch.input_ids.device))
                    active, losses, members = self._step_(part, owner[taken], sites, changes, optimizers)
                    total[active] += losses
                    count[active] += members
                unfinished &= total / count.clamp_min(1) >= self.stop_loss
        return [
            WeightDelta({site.name: DenseUpdate(change[group]) for site, change in zip(sites, changes, strict=True)})
            for group in range(len(groups))
        ]

    def _step_(
        self,
        rows: CachedSuffix,
        owner: Tensor,
        sites: Sequence[EditSite],
        changes: Sequence[Tensor],
        optimizers: Sequence[RowAdam],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of Adam for every group that has rows, unless its loss is small enough.

        Args:
            rows: N prompts with their answers.
            owner: Number of each row's group, [N].
            sites: The modules that are edited.
            changes: Changes [G, d_out, d_in] of each module, by group; changed in place.
            optimizers: Adam for each of them.

        Returns:
            Numbers of the groups, the sums of their rows' losses, and the numbers of their rows.
        """
        active, index = owner.unique(return_inverse=True)
        device = changes[0].device
        at = active.to(device)
        leaves = [change[at].requires_grad_() for change in changes]
        with _changed(sites, leaves, index.to(device)):
            nll = answer_nll(rows.logits(), rows.batch.labels)
        losses = nll.new_zeros(len(active)).index_add(0, index.to(nll.device), nll)
        members = torch.bincount(index).to(losses)
        gradients = torch.autograd.grad((losses / members).sum(), leaves)
        moving = (losses.detach() / members >= self.stop_loss).to(device)
        for change, optimizer, gradient in zip(changes, optimizers, gradients, strict=True):
            optimizer.step_(at[moving], gradient[moving])
            if self.epsilon is not None:
                change.clamp_(-self.epsilon, self.epsilon)
        return active, losses.detach().double().cpu(), members.double().cpu()

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The gradient at every token, as long as the loss asks for, were it linear, or as the bounds let the matrix change.

        Adam moves every entry by the learning rate a step. Here the change is spread over the entries as the gradient is.
        """
        site = facts.site
        squared = (facts.inputs @ facts.inputs.mT * (facts.gradients @ facts.gradients.mT)).sum((1, 2)).clamp_min(0)
        entry = self.steps * self.learning_rate
        largest = min(entry, self.epsilon or entry) * (site.in_features * site.out_features) ** 0.5  # |dW|, Frobenius
        tiny = torch.finfo(squared.dtype).tiny
        wanted = (facts.nll - self.stop_loss).clamp_min(0) / squared.clamp_min(tiny)
        scale = torch.minimum(wanted, largest / squared.sqrt().clamp_min(tiny))
        return -scale.view(-1, 1, 1) * facts.gradients

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The inputs at every token."""
        return facts.inputs

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        names = ("steps", "learning_rate", "epsilon", "stop_loss", "batch_size")
        return {"name": self.name, **{name: getattr(self, name) for name in names}}

    def _batches(self, groups: Sequence[EditTargets]) -> int:
        """Number of batches that the largest group makes."""
        return -(-max(len(group.requests) for group in groups) // self.batch_size)

    def _batch(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layer: int,
        number: int,
    ) -> tuple[CachedSuffix, Tensor]:
        """The batch of this number of every group, and the group of each row."""
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        pairs = [(group, request) for group, targets in enumerate(groups) for request in targets.requests[part]]
        encoded = self.encode(tokenizer, [request for _, request in pairs]).to(input_device(model))
        encoded.subject.zero_()  # the matrix changes for every token: nothing before the subject can be kept
        return CachedSuffix(model, encoded, layer), torch.tensor([group for group, _ in pairs])


@contextmanager
def _changed(sites: Sequence[EditSite], changes: Sequence[Tensor], rows: Tensor) -> Iterator[None]:
    """Within the block, each row runs with the changes [G, d_out, d_in] of its group."""
    with ExitStack() as stack:
        for site, change in zip(sites, changes, strict=True):
            stack.enter_context(
                added_to_output(site.module, lambda k, c=change: k.to(c.dtype) @ c[rows].mT, rows=len(rows))  # type: ignore[misc]
            )
        yield


def encode_targets(tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
    """Prompts with their new answers, each answer token scored at its own position."""
    return encode_answers(
        tokenizer, [request.prompt for request in requests], [request.target_new for request in requests]
    )


class FTL(FineTuning):
    """Every token of the new answer is scored at the prompt's last position, as in the public code.

    That is wrong for answers of several tokens, which then compete for the first place; it is kept here for comparison.

    Takes the arguments of :class:`FineTuning`.
    """

    name = "FT-L"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        encoded = encode_targets(tokenizer, requests)
        return replace(encoded, positions=encoded.positions[:, :1].expand_as(encoded.positions).contiguous())


class FTM(FineTuning):
    """Each token of the new answer is scored at its own position.

    Takes the arguments of :class:`FineTuning`.
    """

    name = "FT-M"

    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """See :class:`FineTuning`."""
        return encode_targets(tokenizer, requests)
