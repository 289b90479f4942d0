"""What a model can do beside the facts that are edited: a small suite that runs anywhere, before and after the edits."""

from lga_lightning.evaluation.general.held_out import (
    HeldOutFacts,
    Question,
    held_out_facts,
    plain_passages,
    questions_of,
)
from lga_lightning.evaluation.general.suite import GeneralSuite
from lga_lightning.evaluation.general.summary import ABILITIES, compare_scores

__all__ = [
    "ABILITIES",
    "GeneralSuite",
    "HeldOutFacts",
    "Question",
    "compare_scores",
    "held_out_facts",
    "plain_passages",
    "questions_of",
]
