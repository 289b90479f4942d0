"""Which families are tried here, and what the page says of each."""

from __future__ import annotations

from transformers import PreTrainedModel

from lga_lightning.exceptions import ModelError
from lga_lightning.models.architecture import edit_site
from lga_lightning.models.cached_suffix import CachedSuffix
from lga_lightning.models.encoding import encode_subjects
from lga_lightning.models.structure import structure_of
from tests.helpers.families import FAMILIES, MORE_FAMILIES
from tests.helpers.models import tiny_tokenizer

REFUSED = ("gemma3n_text", "mamba")
"""Refused whole."""

NOT_EDITED = ("openai-gpt", "recurrent_gemma")
"""Scored and forecast, and refused by the search for target values."""

SCORED = tuple(sorted(name for name in {**FAMILIES, **MORE_FAMILIES} if name not in REFUSED))
EDITED = tuple(name for name in SCORED if name not in NOT_EDITED)


def row(family: str, model: PreTrainedModel) -> str:
    """A family's row in the page.

    Args:
        family: Its ``model_type``.
        model: A tiny model of it.
    """
    try:
        site = edit_site(model, 1)
    except ModelError as error:
        return f"| `{family}` | {error} |"
    if refusal := _refusal(model):
        return f"| `{family}` | {refusal} |"
    block = model.get_submodule(site.name[: site.name.index(".1.") + 2])
    norm = structure_of(model).norm_after_mlp(block) or ""
    mixers = " ".join(f"`{name}`" for name in structure_of(model).attention(block))
    name = site.name.replace(".1.", ".*.") + (".*.down_proj" if site.parts else "")
    return f"| `{family}` | `{name}` | {mixers} | {norm and f'`{norm}`'} |"


def _refusal(model: PreTrainedModel) -> str:
    """What the search for target values says to a model, if it refuses it."""
    try:
        CachedSuffix(model, encode_subjects(tiny_tokenizer(), ["The capital of France is"], [20]))
    except ModelError as error:
        return str(error)
    return ""
