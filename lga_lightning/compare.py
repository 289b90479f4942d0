"""``lga compare``: locators side by side, judged by a sweep over requests that had no part in their choice."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lga_lightning.callbacks.checkpoint import CHECKPOINT_FILE, check_checkpoint
from lga_lightning.callbacks.score_collector import ScoreCollector, check_fingerprint
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LGA, CausalTracing, FixedLayer, LayerLocator, LayerSweep, MiddleLayer
from lga_lightning.locators.selection import Choice, golden_layers
from lga_lightning.models.architecture import blocks
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.results.comparison import Comparison, LocatorRow, SweepResult
from lga_lightning.results.evidence import EVIDENCE_FILE, LocatorEvidence
from lga_lightning.results.regret import judge_candidates, layer_regret, regret_points
from lga_lightning.utils.settings import check_at_least_one

if TYPE_CHECKING:
    Gather = Callable[[Path, LayerLocator, EditDataModule], LocatorEvidence]
    MakeTrainer = Callable[[Path, L.Callback], L.Trainer]

CANDIDATES = 4
"""Layers that the first locator finds best, and that are judged in any case."""
MAX_EDITS = 5000
"""Of a sweep that is made unasked."""
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class LocatorComparison:
    """Lets locators pick a layer on proxy requests, and judges the layers by a sweep over test requests.

    The proxies are those of the data's ``fit``, the tests those of its ``validate``. Each locator's evidence is kept in a folder
    of its own, batch by batch: the same command goes on where it was interrupted, and does nothing twice.

    Args:
        locators: By name. None: the module's own, the paper's rule where that is another, causal tracing, the layer that
            the editor's papers take, and the middle one.
        tests: Use the first so many test requests; None for all.
        others: More data sets, as ``--data.requests`` takes them: does the layer carry over to their test requests?
        candidates: Also judge every rule that the gradients' evidence allows: all statistics under all aggregates, with and without fences
            and neighbours, for the scope of each locator of gradients among the locators.
        batch_size: Test requests a batch of the sweep.
        judge: ``sweep`` edits the tests at every layer. ``candidates`` edits them, all of them, at the layers that were picked and at
            those that the first locator finds best: it tells which of these layers is best, and not whether another is better.
            None: a sweep, unless it takes more than 5,000 edits.
    """

    def __init__(
        self,
        locators: dict[str, LayerLocator] | None = None,
        tests: int | None = None,
        others: list[str] | None = None,
        candidates: bool = False,
        batch_size: int = 32,
        judge: Literal["sweep", "candidates"] | None = None,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        folders = [folder_name(name) for name in locators or ()]
        if len(set(folders)) < len(folders) or "" in folders:
            raise SettingError(f"The names of the locators make the same folder, or none: {list(locators or ())}.")
        if judge not in (None, "sweep", "candidates"):
            raise SettingError(f"`judge` must be sweep, candidates, or left out, got {judge!r}.")
        if candidates and judge == "candidates":
            raise SettingError(
                "`candidates` judges rules by edits at every layer, which `judge: candidates` does not make. Leave one of them out."
            )
        self.locators = locators
        self.tests = tests
        self.others = others or []
        self.candidates = candidates
        self.batch_size = batch_size
        self.judge = "sweep" if candidates else judge

    def run(self, module: LGAModule, data: EditDataModule, root: Path, make_trainer: MakeTrainer) -> Comparison:
        """Score, sweep and judge; in every process of the run.

        Args:
            module: The language model, the locator to begin with, and the editor.
            data: The proxies; with ``tests`` and ``others``, the tests.
            root: Folder for all evidence.
            make_trainer: A trainer that leaves its results in a folder, with a callback.

        Raises:
            DataError: If proxies and tests share a request, or evidence in the folder was made with other settings.
        """
        module.configure_model()
        given = self.locators or self._usual(module)
        locators = {name: locator.for_editor(module.editor) for name, locator in given.items()}
        pairs = [_split(data, None, self.tests, self.batch_size)]
        pairs += [_split(data, source, self.tests, self.batch_size) for source in self.others]
        for _, tests in pairs[1:]:
            _check_apart(pairs[0][0], tests)

        def gather(folder: Path, locator: LayerLocator, requests: EditDataModule) -> LocatorEvidence:
            return _gather(folder, locator, module, requests, make_trainer)

        found = {
            name: gather(root / "proxies" / folder_name(name), locator, pairs[0][0])
            for name, locator in locators.items()
        }
        choices = {name: locators[name].choose(one.scores) for name, one in found.items()}
        first = next(iter(locators))
        own: list[int | None] = [None]
        for number, (proxies, _) in enumerate(pairs[1:], start=1):
            scores = gather(root / f"tests-{number}" / "proxies", locators[first], proxies).scores
            own.append(locators[first].choose(scores, resamples=1).golden_layer)
        layers = None
        if self._judge(sum(len(tests.loaded.requests) for _, tests in pairs), module) == "candidates":
            picked = [choice.golden_layer for choice in choices.values()]
            layers = sorted({*picked, *choices[first].ranking[:CANDIDATES], *(one for one in own if one is not None)})
        swept = [
            gather(root / f"tests-{number}" / "sweep", LayerSweep(), tests)
            if layers is None
            else _edited_at(layers, root / f"tests-{number}", tests, gather)
            for number, (_, tests) in enumerate(pairs)
        ]
        sweeps = [
            _sweep_result(tests.name, one, layers, own_layer)
            for (_, tests), one, own_layer in zip(pairs, swept, own, strict=True)
        ]
        per_request = sum(s.seconds for s in swept) / sum(len(s.evidence) for s in swept)
        if layers is not None:  # what edits at all layers would take
            per_request *= len(blocks(module.language_model[0])) / len(layers)
        sizes = SIZES if layers is None else ()
        rows = [
            _row(name, locators[name], choices[name], found[name], swept, per_request, sizes, module)
            for name in locators
        ]
        candidates = []
        if self.candidates:
            by_scope = {locator.scope: name for name, locator in locators.items() if locator.scope is not None}
            for scope, name in by_scope.items():
                candidates += judge_candidates(scope, found[name].evidence, swept[0].scores)
            candidates.sort(key=lambda candidate: candidate.expected_regret)
        editor = module.editor.settings_by_layer(module.language_model[0])
        return Comparison(module.model_name, pairs[0][0].name, editor, sweeps, rows, candidates)

    def _judge(self, tests: int, module: LGAModule) -> str:
        edits = tests * len(blocks(module.language_model[0]))
        if self.judge is None and edits > MAX_EDITS:
            rank_zero_info(
                f"Edits of {tests:,} tests at every layer would be {edits:,}, so the tests are edited at the candidates alone: the layers "
                "that were picked, and the best of the first locator. For all layers: --compare.judge sweep; fewer tests: --compare.tests N."
            )
            return "candidates"
        return self.judge or "sweep"

    def _usual(self, module: LGAModule) -> dict[str, LayerLocator]:
        locators: dict[str, LayerLocator] = {type(module.locator).__name__: module.locator}
        locators.setdefault("LGA", LGA())
        locators.setdefault("CausalTracing", CausalTracing())
        default = module.editor.default_layers(module.language_model[0])
        locators[f"{module.editor.name}'s default"] = FixedLayer(default[-1])
        return locators | {"MiddleLayer": MiddleLayer()}


class EvidenceCollector(ScoreCollector):
    """Collects a locator's evidence, and keeps it in a file.

    Args:
        path: The file.
        made_with: What the evidence depends on.

    Attributes:
        evidence: That of all processes' requests, in each process that has collected, once ``fit`` is over.
    """

    def __init__(self, path: Path, made_with: dict[str, Any]) -> None:
        super().__init__(checkpoint_every=1, verbose=False)
        self.path, self.made_with = path, made_with
        self.resumes = _refusal(path.parent)
        self.evidence: LocatorEvidence | None = None

    @property
    def state_key(self) -> str:
        """Its checkpoints are those of any collector."""
        return ScoreCollector.__qualname__

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what all processes have collected."""
        super().on_train_end(trainer, pl_module)
        index, values, status = self.collected
        self.evidence = LocatorEvidence(index, values, status, self.seconds, self.made_with)
        if trainer.is_global_zero:
            self.evidence.save(self.path)


def folder_name(name: str) -> str:
    """A locator's name as that of a folder.

    Example:
        >>> folder_name("LGA, the paper's rule")
        'lga-the-paper-s-rule'
    """
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _split(
    data: EditDataModule, source: str | None, limit: int | None, batch_size: int
) -> tuple[EditDataModule, EditDataModule]:
    """Proxies and tests of the data, or of another source with the same settings."""
    parts = []
    for split in ("proxy", "test"):
        part = copy.copy(data)
        part.split = split  # type: ignore[assignment]
        if source is not None:
            part.source, part.format = source, "auto"
        if split == "test":
            part.limit, part.batch_size = limit, batch_size
        part.setup("fit")
        parts.append(part)
    _check_apart(*parts)
    return parts[0], parts[1]


def _check_apart(proxies: EditDataModule, tests: EditDataModule) -> None:
    shared = {request.prompt for request in proxies.loaded.requests} & {r.prompt for r in tests.loaded.requests}
    if shared:
        raise DataError(
            f"{len(shared)} of the prompts of {tests.name} would be both proxies and tests (one is {min(shared)!r}), and a layer "
            "that is judged by the requests that chose it looks better than it is. Give the rows a split, or divide them by "
            "subject with --data.proxy_share 0.5."
        )


def _edited_at(layers: Sequence[int], folder: Path, tests: EditDataModule, gather: Gather) -> LocatorEvidence:
    """A sweep over some layers: what earlier sweeps over some left of them, each in a folder named by its layers, and the rest made now."""
    found: dict[int, LocatorEvidence] = {}

    def sweep(place: Path, some: Sequence[int]) -> None:
        part = gather(place, LayerSweep(layers=some), tests)
        found.update(dict.fromkeys(some, replace(part, seconds=part.seconds / len(some))))

    for earlier in sorted(folder.glob("sweep-*")):
        some = [int(layer) for layer in re.findall("[0-9]+", earlier.name)]
        if (earlier / EVIDENCE_FILE).is_file() and not set(layers).isdisjoint(some):
            sweep(earlier, some)
    if missing := [layer for layer in layers if layer not in found]:
        sweep(folder / "-".join(map(str, ("sweep", *missing))), missing)
    one = found[layers[0]]
    values = torch.full_like(one.values, torch.nan)
    values[:, 0] = 0  # as in a sweep that leaves layers out
    for layer in layers:
        values[..., layer] = found[layer].values[..., layer]
    return replace(one, values=values, seconds=sum(found[layer].seconds for layer in layers))


def _gather(
    folder: Path, locator: LayerLocator, module: LGAModule, data: EditDataModule, make_trainer: MakeTrainer
) -> LocatorEvidence:
    """A locator's evidence on requests: what an earlier run left, and the rest made now."""
    llm, tokenizer = module.language_model
    runner = LGAModule(
        module.model_name,
        locator=locator,
        editor=module.editor,
        only_known=module.only_known,
        model=llm,
        tokenizer=tokenizer,
    )
    made_with = runner.fingerprint(data.run_data())
    path, checkpoint = folder / EVIDENCE_FILE, folder / CHECKPOINT_FILE
    if path.is_file():
        found = LocatorEvidence.load(path)
        check_fingerprint(found.made_with, made_with, *_refusal(folder))
        return found
    collector = EvidenceCollector(path, made_with)
    trainer = make_trainer(folder, collector)
    resumed = str(checkpoint) if checkpoint.is_file() else None
    if resumed is not None:
        check_checkpoint(resumed)
    trainer.fit(runner, datamodule=data, ckpt_path=resumed, weights_only=True)
    # where Lightning forks or spawns, others have collected it
    return collector.evidence or LocatorEvidence.load(path)


def _refusal(folder: Path) -> tuple[str, str]:
    """What is refused of a folder's evidence, and how to start anew."""
    return f"The evidence in {str(folder)!r}", "with another --trainer.default_root_dir, or without that folder"


def _sweep_result(data: str, swept: LocatorEvidence, layers: list[int] | None, own_layer: int | None) -> SweepResult:
    points = 100 * swept.evidence.double()
    scores = points[:, 0].mean(0)
    best, optimum = int(golden_layers(scores, None)), points[:, 0].amax(1).mean().item()
    if layers is not None:
        left_out = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, torch.tensor(layers), False)
        scores[left_out] = torch.nan
    names = LayerSweep.columns[1:]
    parts = {name: points[:, number].nanmean(0).tolist() for number, name in enumerate(names, start=1)}
    return SweepResult(data, len(points), swept.seconds, scores.tolist(), parts, best, optimum, own_layer)


def _row(
    name: str,
    locator: LayerLocator,
    choice: Choice,
    found: LocatorEvidence,
    swept: Sequence[LocatorEvidence],
    per_request: float,
    sizes: Sequence[int],
    module: LGAModule,
) -> LocatorRow:
    return LocatorRow(
        name=name,
        layer=choice.golden_layer,
        confidence=choice.confidence,
        num_requests=len(found.scores),
        seconds=found.seconds,
        speed_up=per_request * len(found.scores) / max(found.seconds, 1e-9),
        regrets=[layer_regret(one.scores, choice.golden_layer) for one in swept],
        points=regret_points(locator, found.scores, swept[0].scores, sizes) if locator.uses_requests else [],
        settings={
            "class": type(locator).__name__,
            "aggregate": locator.aggregate,
            "kappa": locator.kappa,
            "neighbours": locator.neighbours,
            **locator.settings(module.language_model[0]),
        },
    )
