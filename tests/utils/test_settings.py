"""What methods, locators and guards look like at a prompt."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from lga_lightning import editing, locators
from lga_lightning.editing import MEMIT, RROME, Guarded, NormGuard
from lga_lightning.locators import LGA, EditForecast
from lga_lightning.utils.settings import ShowsSettings

PARTS = [part for room in (editing, locators) for part in vars(room).values() if inspect.isclass(part)]
SHOWN = [part for part in PARTS if issubclass(part, ShowsSettings) and not inspect.isabstract(part)]


@pytest.mark.parametrize("part", SHOWN, ids=lambda part: part.__name__)
def test_a_part_shows_the_call_that_made_it(part):
    needed = {
        "GradientLocator": ("mlp", None, "sum", "dot", 0),
        "FixedLayer": (3,),
        "Guarded": (MEMIT(), [NormGuard()]),
    }
    made = part(*needed.get(part.__name__, ()))
    text = repr(made)
    assert text.startswith(f"{part.__name__}(")
    assert " at 0x" not in text
    names = {**vars(editing), **vars(locators)}
    assert repr(eval(text, names)) == text
    assert repr(copy.copy(made)) == repr(pickle.loads(pickle.dumps(made))) == text


def test_settings_are_shown_as_they_were_given():
    assert repr(RROME(steps=12, second_moment="identity")) == "RROME(steps=12, second_moment='identity')"
    assert repr(LGA("mlp_out", kappa=None)) == "LGA('mlp_out', kappa=None)"
    guarded = Guarded(MEMIT(window=3), [NormGuard(0.1)])
    assert repr(EditForecast(guarded)) == "EditForecast(Guarded(MEMIT(window=3), [NormGuard(0.1)]))"
    assert "steps" in inspect.signature(RROME.__mro__[2]).parameters  # help() still lists arguments
