"""Writes docs/families.md: ``python -m tests.families.table``."""

from __future__ import annotations

from pathlib import Path

from tests.families.families import EDITED, NOT_EDITED, REFUSED, row
from tests.helpers.families import COMPOSITES
from tests.helpers.models import tiny_model

PAGE = Path(__file__).parents[2] / "docs/families.md"

TEXT = """# Model families

`tests/families` takes a tiny model with random weights of each of these {count} families of transformers, by its `model_type`. For each, the scores of
`LGA` and the forecast of `EditForecast` are those of plain autograd (to 1e-9, in float64; of routed experts for small updates, to 1e-6), passes from a cache are whole passes, an edit gives
its key the target value (W' k* = v*), PEFT loads the adapter and takes it off again, and a model that is trained under `LayerAttribution` gets the
weights that it gets without, bit for bit. What the real weights do is not tried here. A family that is not in the table may work as well: the rules
ask how modules are made, and name no family ([an unusual architecture](extending/structure.md)).

This page is written by `python -m tests.families.table`, and the tests hold each row against the family's model.

| family | matrix that is edited | what mixes tokens | norm behind the MLP |
|---|---|---|---|
{edited}

## Mixtures of experts

Where a block has a shared expert, which sees every token (`shared_expert`, `shared_experts`), it is scored and edited. Where it has none, the routed experts
are: side by side, their out-projections are one matrix [W_1 ... W_E], whose key is (w_1 k_1, ..., w_E k_E) with the router's weights w, zero for every expert that
a token is not routed to. So the scores and gradients of an expert are those of the tokens that it sees, and an edit changes the experts that the subject's last token is
routed to, each by its weight. In the edit each changed expert is a module of its own (`model.layers.1.mlp.experts.3.down_proj`, as checkpoints name it), and its
norm says how much of the edit it carries. `register_structure("qwen2_moe", RoutedExperts())`, or `--model.structure
lga_lightning.models.structure.RoutedExperts`, takes the routed experts in place of the shared one; a forecast under each tells which to edit.

`lga fit` says which experts these are for the golden block: the share of an edit that each would carry in the mean over the proxies, |w_e k_e|² over the sum of all of them
at the subject's last token, and how many requests are routed to it. It stands in the terminal, in `report.html`, and as `experts` in `attribution.json`, with all that are reached. Which of them a fact
takes is the router's choice, fact by fact, so no expert is fixed beforehand. Where the shared expert is edited, the report says how to have the routed ones forecast.

- PEFT loads such an edit through `target_parameters`: the file has room for all experts of a block, and adapters that a model carries at once must change the same blocks.
- The second moments C of many experts side by side are too large for memory; edits then need `second_moment="identity"`.
- The scope `mlp` of `LGA` asks for all matrices and is refused for routed experts, whose other matrices are not scored; `mlp_out` and `value` are there.
- The router is not edited, and what a token is routed to after an edit of an earlier block is what the router then says.
- transformers 4 kept experts apart; there they are refused.

## Models that also see

Of a model that takes pictures, too, the text decoder is scored and edited, and the prompts are text: {composites}. Tried with tiny random weights as above (scores, an edit,
its adapter in PEFT), with as many layers in what sees as in the decoder. `load_model` takes them where transformers has them for images and text (`AutoModelForImageTextToText`), too.

## Not edited, or not at all

| family | what it says |
|---|---|
{others}
"""


def page() -> str:
    """The page's text."""
    edited = [row(family, tiny_model(family)) for family in EDITED]
    others = [row(family, tiny_model(family)) for family in (*NOT_EDITED, *REFUSED)]
    composites = ", ".join(f"`{family}`" for family in COMPOSITES)
    rows = {"edited": "\n".join(edited), "others": "\n".join(others)}
    return TEXT.format(count=len(EDITED), composites=composites, **rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
