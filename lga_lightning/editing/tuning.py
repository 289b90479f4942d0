"""What all fine-tuning of out-projections shares: many groups of requests in training side by side, each on a change of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.editing.base import EditMethod
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.first_order import LinearisedFacts
from lga_lightning.editing.row_adam import RowAdam
from lga_lightning.editing.targets import EditTargets
from lga_lightning.editing.updates import DenseUpdate
from lga_lightning.exceptions import SettingError
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.hooks import added_to_output, frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.sites import EditSite
from lga_lightning.utils.tensors import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lga_lightning.data.requests import EditRequest
    from lga_lightning.models.encoding import EncodedAnswers

PIECE = 2**24  # entries of gradients that are formed at once for a forecast

GradientFilter = Callable[[Tensor], Tensor]
"""Takes gradients [..., d_out, d_in] of a matrix, and returns the part of them that Adam may follow."""


@dataclass
class TunedMatrix:
    """A matrix in training.

    Attributes:
        site: The module.
        change: What is added to its weight, [G, d_out, d_in], by group; changed in place.
        adam: Moves the change.
        allowed: What of a gradient Adam may follow.
    """

    site: EditSite
    change: Tensor
    adam: RowAdam
    allowed: GradientFilter


class FineTuning(EditMethod):
    """Adam on what is added to the out-projections' matrices.

    A group of requests is gone through in batches of ``batch_size``, in several rounds, with a step of Adam after each batch whose
    mean loss is not small enough yet. A group is done when its mean loss over a round is. Where a loss is NaN or infinite, there is no
    gradient to follow: the group's edit is NaN in every entry, so that it scores as a broken one and is not written.

    Args:
        rounds: Number of rounds over a group's requests, at most.
        learning_rate: Learning rate of Adam.
        stop_loss: Mean loss below which there is no step, or no further round.
        batch_size: Number of requests of one group in a step.
    """

    needs_subject = False

    def __init__(self, rounds: int, learning_rate: float, stop_loss: float, batch_size: int) -> None:
        if rounds < 1 or batch_size < 1 or not learning_rate > 0 or not stop_loss >= 0:
            raise SettingError(
                f"`{self.rounds_setting}` and `batch_size` must be at least 1, `learning_rate` above 0 and `stop_loss` at least 0, "
                f"got {rounds}, {batch_size}, {learning_rate} and {stop_loss}."
            )
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.stop_loss = stop_loss
        self.batch_size = batch_size

    rounds_setting: str = "steps"
    """What users call the number of rounds."""

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> EncodedAnswers:
        """Prompts with new answers, and where each answer token is scored."""

    def orders(self, count: int) -> Iterator[Tensor]:
        """The order in which a group's requests are gone through, round by round; by default always their own.

        Args:
            count: Number of requests of the group.

        Yields:
            Permutations of the numbers below ``count``.
        """
        return repeat(torch.arange(count))

    def filters(
        self, model: PreTrainedModel, sites: Sequence[EditSite], history: dict[int, Any] | None
    ) -> list[GradientFilter]:
        """What of its gradient each matrix may follow; by default all of it.

        Args:
            model: A causal language model.
            sites: The modules that are edited.
            history: See :meth:`EditMethod.write`.
        """
        return [_unchanged] * len(sites)

    def limit_(self, change: Tensor) -> None:
        """Keep a change in its bounds after a step, in place; by default there are none."""

    def largest_entry(self) -> float:
        """How far an entry of the matrix gets from where it was, as the forecast takes it: Adam's steps, half of which are lost in turns."""
        return self.rounds * self.learning_rate / 2

    def optimize_targets(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        layers: Sequence[int],
    ) -> EditTargets:
        """The requests alone: there is nothing to find out before writing."""
        self.prepare(model, tokenizer, layers)
        return EditTargets(list(requests))

    def write(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Sequence[EditTargets],
        layers: Sequence[int],
        history: dict[int, Any] | None = None,
    ) -> list[WeightDelta]:
        """Dense updates, of all groups side by side; see :class:`EditMethod`."""
        sites = [edit_site(model, layer) for layer in layers]
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            matrices = []
            for site, allowed in zip(sites, self.filters(model, sites, history), strict=True):
                change = like_changes(model, site).new_zeros(len(groups), site.out_features, site.in_features)
                matrices.append(TunedMatrix(site, change, RowAdam(change, self.learning_rate), allowed))
            requests = list(chain.from_iterable(group.requests for group in groups))
            encoded = self.encode(tokenizer, requests).to(input_device(model))
            # the matrix changes for every token: nothing before the subject can be kept
            whole = replace(encoded, subject=torch.zeros_like(encoded.subject))
            rows = CachedSuffix(model, whole, layers[0])
            rows.run_below(self.batch_size * len(groups))
            self._train_(rows, [len(group.requests) for group in groups], matrices)
        return [
            WeightDelta.join(WeightDelta.at(matrix.site, DenseUpdate(matrix.change[group])) for matrix in matrices)
            for group in range(len(groups))
        ]

    def expected_change(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """Where training is expected to end: down the gradient that it follows, at every token, until the answer is said or the steps end.

        Adam moves every entry by the learning rate a step, whatever its gradient is. So the loss falls, to first order, by the
        learning rate times the sum of the gradient's absolute entries, which bounds how far down the gradient it gets. Of several
        blocks each is to make up an equal part of the loss.
        """
        return self._part(model, facts, len(self.window_at(facts.site.layer)))

    def expected_directions(self, model: PreTrainedModel, facts: LinearisedFacts) -> Tensor:
        """The inputs at every token, and whatever else the gradient is made of."""
        return self.followed(model, facts)[1]

    def expected_share(self, model: PreTrainedModel, facts: LinearisedFacts, changes: Tensor, left: int) -> Tensor:
        """As :meth:`expected_change`, by the block's own gradient."""
        return self._part(model, facts, len(self.window_at(facts.site.layer + left - 1)))

    def followed(self, model: PreTrainedModel, facts: LinearisedFacts) -> tuple[Tensor, Tensor]:
        """The gradients of a matrix that are followed, as sums of outer products p_r q_r^T; by default all of the gradient.

        Args:
            model: A causal language model.
            facts: B requests at the matrix's block.

        Returns:
            p [B, R, d_out] and q [B, R, d_in].
        """
        return facts.gradients, facts.inputs

    def _part(self, model: PreTrainedModel, facts: LinearisedFacts, count: int) -> Tensor:
        """What a block does of an edit of ``count`` blocks, as :meth:`expected_change` gives it; the same tensor when asked again."""

        def find() -> Tensor:
            outputs, inputs = self.followed(model, facts)
            total, squared = facts.once("sizes", lambda: _sizes(outputs, inputs))
            wanted = (facts.nll - self.stop_loss).clamp_min(0) / count
            gain = torch.minimum(wanted, self.largest_entry() * total)
            return -(gain / squared.clamp_min(torch.finfo(squared.dtype).tiny)).view(-1, 1, 1) * outputs

        part: Tensor = facts.once(f"part of {count}", find)
        return part

    def settings(self, model: PreTrainedModel) -> dict[str, Any]:
        """The method's name and settings, for result files."""
        names = ("learning_rate", "stop_loss", "batch_size")
        return {
            "name": self.name,
            self.rounds_setting: self.rounds,
            **{name: getattr(self, name) for name in names},
        }

    def _train_(self, rows: CachedSuffix, sizes: Sequence[int], matrices: Sequence[TunedMatrix]) -> None:
        """Go through the groups, until each is done.

        Args:
            rows: The prompts with their answers, group by group.
            sizes: Number of rows of each of G groups.
            matrices: The matrices in training.
        """
        device = rows.batch.input_ids.device
        starts, orders = [0, *accumulate(sizes)], [self.orders(size) for size in sizes]
        unfinished = list(range(len(sizes)))
        for _ in range(self.rounds):
            round_ = {group: (starts[group] + next(orders[group])).split(self.batch_size) for group in unfinished}
            total, count = torch.zeros(2, len(sizes), dtype=torch.float64)
            for number in range(max(map(len, round_.values()))):
                batches = {group: parts[number] for group, parts in round_.items() if number < len(parts)}
                taken = torch.cat(list(batches.values()))
                owner = torch.tensor([group for group, part in batches.items() for _ in part])
                active, losses, members = self._step_(rows.select(taken.to(device)), owner, matrices)
                total[active] += losses
                count[active] += members
            unfinished = [group for group in unfinished if total[group] / count[group] >= self.stop_loss]
            if not unfinished:
                break

    def _step_(
        self, rows: CachedSuffix, owner: Tensor, matrices: Sequence[TunedMatrix]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of Adam for every group that has rows, unless its loss is small enough.

        Args:
            rows: N prompts with their answers.
            owner: Number of each row's group, [N].
            matrices: The matrices in training.

        Returns:
            Numbers of the groups, the sums of their rows' losses, and the numbers of their rows.
        """
        active, index = owner.unique(return_inverse=True)
        leaves = [matrix.change[active.to(matrix.change.device)].requires_grad_() for matrix in matrices]
        with _changed([matrix.site for matrix in matrices], leaves, index):
            nll = rows.read().nll
        losses = nll.new_zeros(len(active)).index_add(0, index.to(nll.device), nll)
        members = torch.bincount(index).to(losses)
        gradients = torch.autograd.grad((losses / members).sum(), leaves)
        means = losses.detach() / members
        moving, lost = means >= self.stop_loss, active[~means.isfinite().cpu()]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            device = gradient.device  # blocks may be on several
            going = moving.to(device)
            matrix.adam.step_(active.to(device)[going], matrix.allowed(gradient[going]))
            self.limit_(matrix.change)
            matrix.change[lost.to(device)] = torch.nan  # nothing to follow: no edit, and none that is taken for one
        return active, losses.detach().double().cpu(), members.double().cpu()


def like_changes(model: PreTrainedModel, site: EditSite) -> Tensor:
    """An empty tensor of the dtype and on the device that changes of a matrix are trained in."""
    return at_least_float32(torch.empty(0, dtype=model.dtype, device=site.device))


def _sizes(outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the absolute and of the squared entries of matrices sum_r p_r q_r^T, which are formed in pieces of rows.

    Args:
        outputs: p, [B, R, d_out].
        inputs: q, [B, R, d_in].

    Returns:
        [B] and [B].
    """
    total, squared = inputs.new_zeros(2, len(inputs))
    for piece in outputs.mT.split(max(1, PIECE // (len(inputs) * inputs.shape[-1])), 1):
        rows = piece @ inputs
        total += rows.abs().sum((1, 2))
        squared += rows.square().sum((1, 2))
    return total, squared


def _unchanged(gradient: Tensor) -> Tensor:
    return gradient


@contextmanager
def _changed(sites: Sequence[EditSite], changes: Sequence[Tensor], rows: Tensor) -> Iterator[None]:
    """Within the block, each row runs with the changes [G, d_out, d_in] of its group, which is shared and not copied where there is one."""
    count = len(changes[0])
    in_order = torch.equal(rows, torch.arange(count, device=rows.device))
    with ExitStack() as stack:
        for site, change in zip(sites, changes, strict=True):
            of_rows = change[0] if count == 1 else change if in_order else change[rows.to(change.device)]
            stack.enter_context(
                added_to_output(site.module, lambda k, c=of_rows: k.to(c.dtype) @ c.mT, rows=len(rows))  # type: ignore[misc]
            )
        yield
