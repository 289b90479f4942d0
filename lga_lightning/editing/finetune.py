"""FT-L and FT-M: plain fine-tuning of the matrices that the other methods edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lga_lightning.data.requests import EditRequest
from lga_lightning.models.encoding import EncodedAnswers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.base import EditMethod, EditTargets
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.presets import preset_for
from lga_lightning.editing.target_value import RowAdam
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import encode_answers
from lga_lightning.models.hooks import added_to_output, frozen
from lga_lightning.models.likelihood import answer_nll, input_device
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class FineTuning(EditMethod):
    """Adam on the out-projections' matrices, kept close to the old ones (FT-L of the ROME paper, as in EasyEdit).

    A group of requests is gone through in batches of ``batch_size``, ``steps`` times, with a step of Adam after each batch.

    Args:
        steps: Rounds over a group's requests.
        learning_rate: Of Adam.
        epsilon: Every entry stays within this of its old value; None lets it go where it will.
        stop_loss: A group is done when its mean loss over a round is below this.
        batch_size: Requests of one group a step.
    """

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
        """Nothing is to be sought."""
        return EditTargets(list(requests))

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layers: Sequence[int],
        memory: dict[int, Tensor] | None = None,
    ) -> list[WeightDelta]:
        """Dense changes, of all groups side by side."""
        sites = [edit_site(model, layer) for layer in layers]
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            batches = [
                self._rows(model, tokenizer, groups, layers[0], number) for number in range(self._rounds(groups))
            ]
            like = at_least_float32(torch.empty(0, dtype=model.dtype, device=sites[0].weight.device))
            changes = [like.new_zeros(len(groups), site.out_features, site.in_features) for site in sites]
            optimizers = [RowAdam(change, self.learning_rate) for change in changes]
            going = torch.ones(len(groups), dtype=torch.bool)
            for _ in range(self.steps):
                total, count = torch.zeros(2, len(groups), dtype=torch.float64)
                for rows, owner in batches:
                    taking = (going[owner]).nonzero().squeeze(1)
                    if not len(taking):
                        continue
                    chosen, owner = rows.select(taking.to(rows.batch.input_ids.device)), owner[taking]
                    active, place = owner.unique(return_inverse=True)
                    at = active.to(like.device)
                    leaves = [change[at].requires_grad_() for change in changes]
                    with _changed(sites, leaves, place.to(like.device)):
                        nll = answer_nll(chosen.logits(), chosen.batch.labels)
                    loss = nll.new_zeros(len(active)).index_add(0, place.to(nll.device), nll)
                    members = torch.bincount(place).to(loss)
                    gradients = torch.autograd.grad((loss / members).sum(), leaves)
                    total[active] += loss.detach().double().cpu()
                    count[active] += members.double().cpu()
                    wrong = (loss.detach() / members >= self.stop_loss).to(like.device)
                    for change, optimizer, gradient in zip(changes, optimizers, gradients, strict=True):
                        optimizer.step_(at[wrong], gradient[wrong])
                        if self.epsilon is not None:
                            change.clamp_(-self.epsilon, self.epsilon)
                going &= total / count.clamp_min(1) >= self.stop_loss
        return [
            WeightDelta({layer: (None, change[group]) for layer, change in zip(layers, changes, strict=True)})
            for group in range(len(groups))
        ]

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """Name and settings, for result files."""
        names = ("steps", "learning_rate", "epsilon", "stop_loss", "batch_size")
        return {"name": self.name, **{name: getattr(self, name) for name in names}}

    def _rounds(self, groups: Sequence[EditTargets]) -> int:
        """Batches that the largest group makes."""
        return -(-max(len(group.requests) for group in groups) // self.batch_size)

    def _rows(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layer: int,
        number: int,
    ) -> tuple[CachedSuffix, Tensor]:
        """The batch of this number of every group, and the group of each row."""
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        pairs = [(group, request) for group, sought in enumerate(groups) for request in sought.requests[part]]
        encoded = self.encode(tokenizer, [request for _, request in pairs]).to(input_device(model))
        encoded.subject.zero_()  # the matrix changes for every token: nothing before the subject can be kept
        return CachedSuffix(model, encoded, layer), torch.tensor([group for group, _ in pairs])


@contextmanager
def _changed(sites: Sequence[Any], changes: Sequence[Tensor], rows: Tensor) -> Iterator[None]:
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
        tokenizer,
        [request.prompt for request in requests],
        [request.target_new for request in requests],
        [request.subject_end for request in requests],
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
