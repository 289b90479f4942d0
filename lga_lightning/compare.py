"""``lga compare``: locators side by side, judged by a sweep over requests that had no part in their choice."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from lga_lightning.callbacks.layer_attribution import CHECKPOINT_FILE, LayerAttribution, check_fingerprint
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.locators import LGA, CausalTracing, FixedLayer, LayerLocator, LayerSweep, MiddleLayer
from lga_lightning.locators.gradients import GradientLocator
from lga_lightning.metrics import LayerScores
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.lga import LGAModule
from lga_lightning.results.comparison import Comparison, LocatorRow, SweepResult
from lga_lightning.results.regret import judge_candidates, layer_regret, regret_points

if TYPE_CHECKING:
    MakeTrainer = Callable[[Path, L.Callback], L.Trainer]

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Scores:
    """What a run of a locator over some requests left.

    Attributes:
        evidence: [N, C, L] of the N requests that count.
        requests: How many were scored, those that do not count included.
        seconds: How long that took.
    """

    evidence: Tensor
    requests: int
    seconds: float

    @property
    def values(self) -> Tensor:
        """[N, L] the score of each request at each layer."""
        return self.evidence[:, 0]


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
            and neighbours, for the scope of each :class:`GradientLocator` among the locators.
        batch_size: Test requests a batch of the sweep.
    """

    def __init__(
        self,
        locators: dict[str, LayerLocator] | None = None,
        tests: int | None = None,
        others: list[str] | None = None,
        candidates: bool = False,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise SettingError(f"`batch_size` must be at least 1, got {batch_size}.")
        folders = [folder_name(name) for name in locators or ()]
        if len(set(folders)) < len(folders) or "" in folders:
            raise SettingError(f"The names of the locators make the same folder, or none: {list(locators or ())}.")
        self.locators = locators
        self.tests = tests
        self.others = others or []
        self.candidates = candidates
        self.batch_size = batch_size

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
        llm, _ = module.language_model
        locators = self.locators or self._usual(module)
        pairs = [_split(data, None, self.tests, self.batch_size)]
        pairs += [_split(data, source, self.tests, self.batch_size) for source in self.others]
        own = module.locator  # the sweep takes its place for a while

        def gather(folder: Path, locator: LayerLocator, requests: EditDataModule) -> Scores:
            return _gather(folder, locator, module, requests, make_trainer)

        found = {
            name: gather(root / "proxies" / folder_name(name), locator, pairs[0][0])
            for name, locator in locators.items()
        }
        sweeps, truths = [], []
        for number, (proxies, tests) in enumerate(pairs):
            place = root / f"tests-{number}"
            swept = gather(place / "sweep", LayerSweep(module.editor), tests)
            sweeps.append(swept)
            truth = _truth(tests.name, swept)
            if number:
                first = next(iter(locators.values()))
                picked = first.choose(gather(place / "proxies", first, proxies).values, resamples=1).golden_layer
                truth = replace(truth, own_layer=picked)
            truths.append(truth)
        module.locator = own
        per_request = sum(s.seconds for s in sweeps) / sum(len(s.evidence) for s in sweeps)
        rows = [_row(name, locators[name], found[name], sweeps, per_request, module) for name in locators]
        candidates = []
        if self.candidates:
            by_scope = {
                locator.scope: name for name, locator in locators.items() if isinstance(locator, GradientLocator)
            }
            for scope, name in by_scope.items():
                candidates += judge_candidates(scope, found[name].evidence, sweeps[0].values)
            candidates.sort(key=lambda candidate: candidate.expected_regret)
        editor = module.editor.settings(llm)
        return Comparison(module.model_name, pairs[0][0].name, editor, truths, rows, candidates)

    def _usual(self, module: LGAModule) -> dict[str, LayerLocator]:
        locators: dict[str, LayerLocator] = {type(module.locator).__name__: module.locator}
        if not isinstance(module.locator, LGA):
            locators["LGA"] = LGA()
        locators["CausalTracing"] = CausalTracing()
        default = module.editor.default_layers(module.language_model[0])
        locators[f"{module.editor.name}'s default"] = FixedLayer(default[-1])
        return locators | {"MiddleLayer": MiddleLayer()}


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
        part.split, part.done = split, ()  # type: ignore[assignment]
        if source is not None:
            part.source, part.format = source, "auto"
        if split == "test":
            part.limit, part.batch_size = limit, batch_size
        part.setup("fit")
        parts.append(part)
    proxies, tests = parts
    shared = {request.prompt for request in proxies.loaded.requests} & {r.prompt for r in tests.loaded.requests}
    if shared:
        raise DataError(
            f"{len(shared)} of the prompts of {tests.name} would be both proxies and tests (one is {min(shared)!r}), and a layer "
            "that is judged by the requests that chose it looks better than it is. Give the rows a split, or divide them by "
            "subject with --data.proxy_share 0.5."
        )
    return proxies, tests


def _gather(
    folder: Path, locator: LayerLocator, module: LGAModule, data: EditDataModule, make_trainer: MakeTrainer
) -> Scores:
    """A locator's evidence on requests: what an earlier run left, and the rest made now."""
    module.take_locator(locator)
    path, content = folder / CHECKPOINT_FILE, None
    if path.is_file():
        content = _read(path)
        check_fingerprint(content, module, data)
    if content is None or len(_state(content)["scores"]["index"].unique()) < len(data.loaded.requests):
        callback = LayerAttribution(checkpoint_every=1, verbose=False)
        trainer = make_trainer(folder, callback)
        trainer.fit(module, datamodule=data, ckpt_path=str(path) if content else None, weights_only=True)
        content = _read(path)
    state, scores = _state(content), LayerScores()
    scores.restore(state["scores"])
    index, values, status = scores.compute()
    return Scores(values[status == 0].cpu(), len(index), state["seconds"])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def _state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = checkpoint["callbacks"][LayerAttribution().state_key]
    return state


def _truth(data: str, swept: Scores) -> SweepResult:
    points = 100 * swept.evidence.double()
    scores = points[:, 0].mean(0)
    names = LayerSweep.columns[1:]
    parts = {name: points[:, number].nanmean(0).tolist() for number, name in enumerate(names, start=1)}
    optimum = points[:, 0].amax(1).mean().item()
    return SweepResult(data, len(points), swept.seconds, scores.tolist(), parts, int(scores.argmax()), optimum)


def _row(
    name: str,
    locator: LayerLocator,
    found: Scores,
    sweeps: Sequence[Scores],
    per_request: float,
    module: LGAModule,
) -> LocatorRow:
    choice = locator.choose(found.values)
    fixed = isinstance(locator, FixedLayer)  # takes no time, and nothing depends on the proxies
    return LocatorRow(
        name=name,
        layer=choice.golden_layer,
        confidence=choice.confidence,
        num_requests=len(found.values),
        seconds=found.seconds,
        speed_up=per_request * len(found.values) / max(found.seconds, 1e-9),
        regrets=[layer_regret(swept.values, choice.golden_layer) for swept in sweeps],
        points=[] if fixed else regret_points(locator, found.values, sweeps[0].values, SIZES),
        settings={
            "class": type(locator).__name__,
            "aggregate": locator.aggregate,
            "kappa": locator.kappa,
            "neighbours": locator.neighbours,
            **locator.settings(module.language_model[0]),
        },
    )
