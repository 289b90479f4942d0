"""Writes docs/families.md: ``python -m tests.families.table``."""

from __future__ import annotations

from pathlib import Path

from tests.families.families import EDITED, NOT_EDITED, REFUSED, row
from tests.helpers.models import tiny_model

PAGE = Path(__file__).parents[2] / "docs/families.md"

TEXT = """# Model families

`tests/families` takes a tiny model with random weights of each of these {count} families of transformers, by its `model_type`. For each, the scores of
`LGA` and the forecast of `EditForecast` are those of plain autograd (to 1e-9, in float64), passes from a cache are whole passes, an edit gives
its key the target value (W' k* = v*), PEFT loads the adapter and takes it off again, and a model that is trained under `LayerAttribution` gets the
weights that it gets without, bit for bit. What the real weights do is not tried here. A family that is not in the table may work as well: the rules
ask how modules are made, and name no family ([an unusual architecture](extending/structure.md)).

This page is written by `python -m tests.families.table`, and the tests hold each row against the family's model.

| family | matrix that is edited | what mixes tokens | norm behind the MLP |
|---|---|---|---|
{edited}

Not edited, or not at all:

| family | what it says |
|---|---|
{others}
"""


def page() -> str:
    """The page's text."""
    edited = [row(family, tiny_model(family)) for family in EDITED]
    others = [row(family, tiny_model(family)) for family in (*NOT_EDITED, *REFUSED)]
    return TEXT.format(count=len(EDITED), edited="\n".join(edited), others="\n".join(others))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
