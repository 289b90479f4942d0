"""Collects the results of edits over batches and devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import lightning as L
import torch

from lga_lightning.callbacks.host import check_own_module
from lga_lightning.data.corpus import read_passages
from lga_lightning.data.requests import EditRequest
from lga_lightning.evaluation.evaluator import EvaluationConfig
from lga_lightning.evaluation.judges import named_judge
from lga_lightning.evaluation.metric import EditMetric
from lga_lightning.evaluation.protocols import NEUTRAL_TEXT, ProtocolName
from lga_lightning.evaluation.results import EvalResult
from lga_lightning.metrics import RequestRecords
from lga_lightning.models.chat import as_asked, asks_in_chat
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EditCollector(L.Callback):
    """Says what is measured about the edits of :class:`~lga_lightning.LGAModule`, and collects it over batches and devices.

    The common part of :class:`EditReport` and :class:`AdapterWriter`, which write the results.

    Args:
        generate: Whether the model answers every prompt in its own words, beside the teacher-forced scores, which alone
            flatter. It takes most of the time of scoring.
        max_new_tokens: Tokens at which such an answer is cut at the latest; None for 50, and for 200 in the protocol ``wild``.
        fluency: Whether the model also continues every request's generation prompts by 100 tokens, to measure how
            repetitive that is.
        text: Plain text (a file, or a data set of the Hub), to measure how edits move the perplexity of text that has nothing
            to do with them.
        metrics: Metrics of your own, beside the built-in ones (``docs/extending/metric.md``).
        resamples: Bootstrap resamples for the intervals.
        protocol: How the model is let speak: ``completion``, or ``wild`` as its users let it (``docs/metrics.md``).
        chat: In the protocol ``wild``, whether prompts are asked in the chat template; None where the model is one that chats.
        context: In the protocol ``wild``, a text to put before every prompt when it is asked a second time; "" for no second time.
        judge: Says of each answer whether it states what it should: a model by name, or the OpenAI-compatible address of one
            (``http://HOST:PORT/v1``; a key is taken from the environment variable ``LGA_JUDGE_KEY``).
        judge_model: Behind an address, what the server calls the model.
        judge_timeout: Seconds that a server may say nothing.

    Attributes:
        result: The result, once it is there; on every process.

    Raises:
        SettingError: If a number is below 1, or settings do not go together.
    """

    def __init__(
        self,
        generate: bool = True,
        max_new_tokens: int | None = None,
        fluency: bool = False,
        text: str | None = None,
        metrics: list[EditMetric] | None = None,
        resamples: int = 1000,
        protocol: ProtocolName = "completion",
        chat: bool | None = None,
        context: str = NEUTRAL_TEXT,
        judge: str | None = None,
        judge_model: str | None = None,
        judge_timeout: float = 60.0,
    ) -> None:
        check_at_least_one(resamples=resamples)
        self.config = EvaluationConfig(
            generate,
            max_new_tokens,
            fluency,
            metrics=tuple(metrics or ()),
            protocol=protocol,
            chat=chat,
            context=context,
            judge=named_judge(judge, judge_model, judge_timeout),
        )
        self.text = text
        self.resamples = resamples
        self.records = RequestRecords()
        self.result: ValidationResult | None = None

    @cached_property
    def evaluation(self) -> EvaluationConfig:
        """What is measured; the text is read when this is first asked for."""
        passages = read_passages(self.text) if self.text is not None else ()
        return replace(self.config, passages=passages)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a module that edits nothing, and a text or a judge that is not there, before the model is loaded."""
        if stage != "fit":
            check_own_module(self, pl_module)
            _ = self.evaluation
            judge = pl_module.evaluation.judge
            if judge is not None:
                judge.check()

    def begin(self, module: L.LightningModule) -> None:
        """Forget an earlier run, and refuse to ask in a chat template that is not there.

        Args:
            module: The module that edits.
        """
        self._asking(module)
        self.records = RequestRecords().to(module.device)

    def add_results(self, scored: Any) -> None:
        """Add scored edits, if there are any."""
        if scored is not None:
            records = [[asdict(result) for result in of_request] for of_request in scored.results]
            self.records.update(torch.tensor(scored.index, dtype=torch.long), records)

    def gather_results(self, module: L.LightningModule) -> tuple[list[int], list[EditRequest], list[list[EvalResult]]]:
        """Positions of the requests, the requests and their results, over all processes; a collective operation."""
        self.add_results(module.finish_edits())
        index, records = self.records.compute()
        requests = module.data.requests
        results = [[EvalResult.of(record) for record in of_request] for of_request in records]
        return index, [requests[place] for place in index], results

    def build_result(
        self, module: L.LightningModule, requests: Sequence[EditRequest], results: Sequence[Sequence[EvalResult]]
    ) -> ValidationResult:
        """The result of some requests, as it is written to a file.

        Args:
            module: The module that has edited.
            requests: The requests.
            results: The results of each.
        """
        data = module.data
        return ValidationResult.build(
            requests,
            results,
            model_name=module.model_name,
            data_name=data.name,
            layers=module.edited_layers,
            layer_source=module.layer_source,
            method=module.editor.settings(module.llm),
            mode=module.run_mode,
            skipped=data.skipped,
            evaluation=module.evaluation,
            in_chat=asks_in_chat(self._asking(module)),
            resamples=self.resamples,
            group_size=module.schedule.group_size,
            drift=module.schedule.drift,
            change=module.schedule.relative_norms(),
            governor=module.schedule.governed(),
        )

    @staticmethod
    def _asking(module: L.LightningModule) -> PreTrainedTokenizerBase:
        """The tokenizer with which a model that speaks freely is asked."""
        llm, tokenizer = module.language_model
        return as_asked(llm, tokenizer, module.evaluation.chat)
