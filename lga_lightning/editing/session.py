"""Edits one after the other on one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lga_lightning.data.agreement import check_agreement
from lga_lightning.data.requests import EditRequest
from lga_lightning.editing.base import EditMethod, ascending
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.facts import Facts
from lga_lightning.editing.facts_file import facts_from_json, facts_to_json
from lga_lightning.editing.session_memory import SEPARATOR, pack_history, unpack_history
from lga_lightning.editing.targets import EditTargets
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate, Update
from lga_lightning.models.architecture import edit_site, named_site
from lga_lightning.utils.dealing import Deal, alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EditSession:
    """Groups of requests, each edited with all edits before it in place. Between the calls the model is as it was.

    Args:
        method: Method that computes the edits.
        model: A causal language model; it is not changed.
        tokenizer: Its fast tokenizer.
        layers: Indices of the blocks to edit.

    Attributes:
        delta: All edits so far.
        requests: The requests that have been edited, in order.
        history: What the method keeps of the edits so far (see :meth:`EditMethod.new_history`); None for one that keeps nothing.
    """

    def __init__(
        self,
        method: EditMethod,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layers: int | Sequence[int],
    ) -> None:
        self.method, self.model, self.tokenizer = method, model, tokenizer
        self.layers = ascending(model, layers)
        self.delta = WeightDelta({})
        self.requests: list[EditRequest] = []
        self.history: dict[Any, Any] | None = method.new_history()

    def edit(self, requests: Sequence[EditRequest], batch_size: int = 8, deal: Deal = alone) -> None:
        """Edit a group of requests together.

        Args:
            requests: The group.
            batch_size: Number of requests whose targets are optimised at once.
            deal: See :meth:`EditMethod.compute`.

        Raises:
            DataError: If two of them contradict each other.
        """
        history = self._copy_of_history()
        with self.delta.applied(self.model):
            added = self.method.compute(self.model, self.tokenizer, requests, self.layers, batch_size, history, deal)
        self._add(added, requests, history)

    def edit_targets(self, targets: EditTargets) -> None:
        """Edit a group for which the first stage of the method is done, on the model with all edits so far.

        Args:
            targets: What the first stage has found.

        Raises:
            DataError: If two of the requests contradict each other.
        """
        check_agreement(targets.requests)
        history = self._copy_of_history()
        with self.delta.applied(self.model):
            added = self.method.write_groups(self.model, self.tokenizer, [targets], self.layers, history)[0]
        self._add(added, targets.requests, history)

    def relative_norms(self) -> dict[int, float]:
        """Frobenius norm of all changes over that of the weights that they change, together, by block."""
        norms = {}
        for layer, sites in self.delta.by_block(self.model).items():
            changes = torch.stack([self.delta.matrix(site.name).norm().cpu() for site in sites])
            weights = torch.stack([site.whole_weight().float().norm().cpu() for site in sites])
            norms[layer] = (changes.norm() / weights.norm()).item()
        return norms

    def state_dict(self) -> dict[str, Tensor]:
        """All that later edits depend on, as tensors by name, bit for bit: the factors and facts of ``delta``, and ``history``."""
        state = {
            f"delta.{number}.{name}": factor
            for name, update in self.delta.updates.items()
            for number, factor in enumerate(update.factors)
        }
        facts = json.dumps(facts_to_json(self.delta.facts)).encode()
        state["facts"] = torch.frombuffer(bytearray(facts), dtype=torch.uint8)
        return state | {f"history.{name}": tensor for name, tensor in pack_history(self.history or {}).items()}

    def load_state_dict(self, state: Mapping[str, Tensor], requests: Sequence[EditRequest]) -> None:
        """Go on from where another session of the same method, model and layers was.

        Args:
            state: What its :meth:`state_dict` gave; afterwards each tensor is on the device of its module or block.
            requests: The requests that it had edited, in order.
        """
        self.method.prepare(
            self.model, self.tokenizer, self.layers
        )  # now: contexts and moments are the unedited model's
        factors: dict[str, list[Tensor]] = {}
        history: dict[str, Tensor] = {}
        facts = Facts()
        for key, tensor in sorted(state.items()):
            kind, _, rest = key.partition(".")
            if kind == "history":
                place = rest.partition(SEPARATOR)[0]
                site = edit_site(self.model, int(place)) if place.isdigit() else named_site(self.model, place)
                history[rest] = tensor.to(site.device)
            elif kind == "facts":
                facts = facts_from_json(json.loads(tensor.numpy().tobytes()))
            else:
                name = rest.partition(".")[2]
                factors.setdefault(name, []).append(tensor.to(named_site(self.model, name).device))
        updates: dict[str, Update] = {
            name: LowRankUpdate(*parts) if len(parts) == 2 else DenseUpdate(*parts) for name, parts in factors.items()
        }
        self.delta, self.requests = WeightDelta(updates, facts), list(requests)
        if self.history is not None:
            self.history |= unpack_history(history, self.method.history_entry)

    def state(self) -> dict[str, Any]:
        """The edits so far, for :meth:`restore`; edits that come later leave it as it is."""
        return {"delta": self.delta, "requests": list(self.requests), "history": self._copy_of_history()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to edits.

        Args:
            state: What :meth:`state` gave.
        """
        self.delta, self.requests = state["delta"], list(state["requests"])
        self.history = None if state["history"] is None else dict(state["history"])

    def _copy_of_history(self) -> dict[Any, Any] | None:
        """What is remembered: methods put other entries in the place of those that are there, and leave these as they are."""
        return None if self.history is None else dict(self.history)

    def _add(self, added: WeightDelta, requests: Sequence[EditRequest], history: dict[Any, Any] | None) -> None:
        """Take up a group whose edit is made: one that fails on the way leaves the session as it was."""
        self.delta = self.delta.then(added).compact()
        self.requests += requests
        self.history = history
