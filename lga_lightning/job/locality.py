"""Locality probes for requests that come without any: bundled facts that the model knows, and that no request touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from lga_lightning.data.loading import load_requests
from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.evaluation.general import held_out_facts
from lga_lightning.locators.base import first_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "bundled"
PROBES = 16
"""Bundled facts that are asked about, for a few requests."""
FEWEST_EACH = 2


def with_bundled_locality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]
) -> list[EditRequest]:
    """The requests; those without locality probes get bundled facts as such, by which no layer is found.

    Args:
        model: The unedited model; it is not changed.
        tokenizer: Its fast tokenizer.
        requests: N requests; where the model knows none of the bundled facts, they stay as they are.
    """
    bare = [request for request in requests if not request.locality]
    if not bare:
        return list(requests)
    facts = load_requests(split="test").requests
    each = max(FEWEST_EACH, -(-PROBES // len(bare)))
    known = first_known(model, tokenizer, held_out_facts(facts, requests).facts, PROBES)
    probes = cycle(Probe(fact.prompt, (str(fact.target_old), *fact.target_old_aliases)) for fact in known)

    def filled(request: EditRequest) -> EditRequest:
        given = tuple(islice(probes, min(each, len(known))))
        return replace(request, locality={KIND: given}) if given else request

    return [request if request.locality else filled(request) for request in requests]
