"""Which routed experts of a block an edit there would change, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lga_lightning.data.requests import EditRequest
from lga_lightning.models.architecture import blocks, edit_site
from lga_lightning.models.encoding import encode_subjects
from lga_lightning.models.experts import ExpertMatrix, is_fused
from lga_lightning.models.hooks import captured_inputs, frozen
from lga_lightning.models.likelihood import input_device
from lga_lightning.models.partial_passes import ends_after

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExpertShare:
    """One of a block's routed experts.

    Attributes:
        expert: Its number.
        share: Mean over requests of |w_e k_e|^2 / sum_e |w_e k_e|^2 at the subject's last token, with the router's weight w_e: the share of an
            edit of the block's experts, side by side and with C = I, that is this expert's.
        requests: Requests whose token is routed to it.
    """

    expert: int
    share: float
    requests: int


@torch.inference_mode()
def expert_shares(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    layer: int,
    batch_size: int = 32,
) -> list[ExpertShare] | None:
    """What edits at a block would change of each of its routed experts; a forward pass over the subjects.

    Args:
        model: A causal language model.
        tokenizer: Its fast tokenizer.
        requests: The requests; of one without a subject, the prompt's last token counts.
        layer: The block.
        batch_size: Requests a pass.

    Returns:
        Those that a token is routed to, the largest share first; none where the block's shared expert is edited in their place. None of a
        block without routed experts.
    """
    if not any(map(is_fused, blocks(model)[layer].modules())):
        return None
    module = edit_site(model, layer).module
    if not isinstance(module, ExpertMatrix):
        return []
    shares, counts = torch.zeros(2, module.count, dtype=torch.float64)
    for start in range(0, len(requests), batch_size):
        some = requests[start : start + batch_size]
        ends = [request.anchor_end for request in some]
        batch = encode_subjects(tokenizer, [request.prompt for request in some], ends).to(input_device(model))
        with (
            frozen(model),
            captured_inputs([module], batch.subject) as keys,
            ends_after(model, blocks(model)[layer]),
        ):
            model(input_ids=batch.input_ids, use_cache=False)
        sizes = keys[0].double().unflatten(1, (module.count, -1)).square().sum(-1).cpu()  # [B, E]
        shares += (sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)).sum(0)
        counts += (sizes > 0).sum(0)
    found = [
        ExpertShare(number, float(shares[number]) / len(requests), int(count))
        for number, count in enumerate(counts)
        if count
    ]
    return sorted(found, key=lambda one: -one.share)
