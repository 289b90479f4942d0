"""Which prompts a request has."""

from __future__ import annotations

from dataclasses import replace

from lga_lightning.data.requests import EditRequest, Probe
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.evaluation.prompts import EvalPrompt, prompts_of


def test_the_prompts_of_a_request():
    probe = Probe("Oslo is in", ("Norway",))
    prompts = prompts_of(
        EditRequest(
            "Rome is in",
            "Rome",
            "France",
            "Italy",
            rephrases=("Where is Rome? In",),
            locality={"neighborhood": (probe, Probe("Paris is in", ("France",))), "other": (probe,)},
            portability={"reasoning": (probe,)},
        )
    )
    assert [(p.group, p.prompt, p.answers[0], p.alternative) for p in prompts] == [
        ("rewrite", "Rome is in", "France", "Italy"),
        ("rephrase", "Where is Rome? In", "France", "Italy"),
        ("portability.reasoning", "Oslo is in", "Norway", None),
        ("locality.neighborhood", "Oslo is in", "Norway", "France"),
        ("locality.neighborhood", "Paris is in", "France", None),  # the new target is the right answer
        ("locality.other", "Oslo is in", "Norway", None),
    ]
    aliases = EditRequest("Rome is in", "Rome", "the US", rephrases=("Rome: in",), target_new_aliases=("America",))
    assert [prompt.answers for prompt in prompts_of(aliases)] == [("the US", "America")] * 2
    fluency = EvaluationConfig(fluency=True).prompts
    assert fluency(aliases)[-1] == EvalPrompt("fluency", "Rome is in", ())
    told = replace(aliases, generation_prompts=("Rome's mayor", "In Rome"))
    assert [prompt.prompt for prompt in fluency(told)[-2:]] == ["Rome's mayor", "In Rome"]
    without = prompts_of(EditRequest("Rome is in", "Rome", "France", locality={"neighborhood": (probe,)}))
    assert [prompt.alternative for prompt in without] == [None, None]
