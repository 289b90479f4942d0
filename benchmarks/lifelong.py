"""All methods side by side: facts edited alone, and many in a row; each at the layers that our forecast names and at published ones.

    python benchmarks/lifelong.py --config configs/lifelong/smollm2.yaml --known known.jsonl --many counterfact.json \
        --folder runs/lifelong --record docs/results/lifelong.json

Every cell (model, method, layers, alone or in a row) is a run of ``lga validate`` in a folder of its own, and what it finds goes into the
record: the same command goes on where it was interrupted, on another machine too. Facts that the model knows (``benchmarks/known.py`` finds
them) are edited alone, and a quarter of their subjects are the proxies, which nobody edits; many in a row need not be known. The page is
written anew after each cell, over all models in the record.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import lightning as L
from jsonargparse import auto_cli
from quiet_runs import hush, make_trainer
from rich.console import Console

from lga_lightning import EditDataModule, LGAModule, load_model
from lga_lightning.callbacks import EditReport, ScoreCollector
from lga_lightning.compare import folder_name
from lga_lightning.editing import EditMethod, WeightDelta
from lga_lightning.evaluation.config import EvaluationConfig
from lga_lightning.exceptions import LGAError
from lga_lightning.modules.frozen import Dtype
from lga_lightning.modules.schedules import Mode
from lga_lightning.reports.comparison import Sheet
from lga_lightning.reports.wording import name_layers
from lga_lightning.results.attribution import ATTRIBUTION_FILE, LocatorResult
from lga_lightning.results.validation import VALIDATION_FILE, ValidationResult
from lga_lightning.utils.io import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
CHOICES = ("forecast", "published")
WAYS: dict[str, Mode] = {"alone": "independent", "in a row": "sequential"}
TIMED = 8
"""Facts whose edits are timed where each is made alone."""


@dataclass(frozen=True)
class Field:
    """A model, and the methods that are tried on it; the content of a configuration.

    Args:
        model: Name of the model, as ``--model.model_name`` takes it.
        methods: Editing methods by name.
        variants: Methods that differ from those only where edits follow each other: with a history, under guards.
        dtype: Dtype of the weights.
        attn_implementation: Attention that transformers is to use.
        proxies: Requests by which the forecast chooses layers; no others are edited.
        alone: Requests that are edited alone.
        in_a_row: Requests that are edited one group after the other.
        group: Requests of a group.
        batch_size: Requests of a batch where each is edited alone.
        max_new_tokens: Tokens at which what the model says is cut.
        scored: Requests that are scored of those that are edited in a row, drawn at random.
    """

    model: str
    methods: dict[str, EditMethod]
    variants: dict[str, EditMethod] = field(default_factory=dict)
    dtype: Dtype = "bfloat16"
    attn_implementation: str | None = None
    proxies: int = 48
    alone: int = 100
    in_a_row: int = 1000
    group: int = 50
    batch_size: int = 25
    max_new_tokens: int = 20
    scored: int = 200


@dataclass(frozen=True)
class Cell:
    """One run: what it is of, and what it has found.

    Attributes:
        model: Name of the model.
        method: Name of the method.
        choice: ``forecast`` or ``published``: where the layers come from.
        way: ``alone`` or ``in a row``.
        source: The data set.
        settings: What else the run depends on.
        layers: The layers that were edited.
        requests: Number of requests that were edited.
        scores: Scores after the edits by the column of the table, in percent, or relative to the unedited model.
        seconds: Time of an edit, of the processor where the model is on one.
        megabytes: Size of the adapter with one edit, or with all of them.
    """

    model: str
    method: str
    choice: str
    way: str
    source: str
    settings: dict[str, Any]
    layers: list[int] = field(default_factory=list)
    requests: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    megabytes: float | None = None

    @property
    def run(self) -> Cell:
        """The run without what it has found."""
        return Cell(self.model, self.method, self.choice, self.way, self.source, self.settings)


class Record:
    """All cells that are known, in a file that is written anew with each.

    Args:
        path: A JSON file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        self.cells = [Cell(**row) for row in rows]

    def __contains__(self, cell: Cell) -> bool:
        return any(known.run == cell.run for known in self.cells)

    def add(self, cell: Cell) -> None:
        """Keep a cell, in place of an earlier one that was made with other settings."""
        place = (cell.model, cell.way, cell.method, cell.choice)
        others = [known for known in self.cells if (known.model, known.way, known.method, known.choice) != place]
        self.cells = [*others, cell]
        write_json(self.path, [asdict(cell) for cell in self.cells])


class FieldRun:
    """Makes the cells that are not there yet.

    Args:
        field: The model and its methods.
        data: The facts by the way in which they are edited.
        folder: Folder of all models.
        accelerator: Where to compute, as Lightning names it.
    """

    def __init__(self, field: Field, data: dict[str, str], folder: Path, accelerator: str = "auto") -> None:
        self.field, self.data, self.accelerator = field, data, accelerator
        self.folder = folder / folder_name(Path(field.model).name)
        self._editors = field.methods | field.variants
        self._asked: Any = {"protocol": "wild", "context": "", "max_new_tokens": field.max_new_tokens}

    def cells(self) -> Iterator[Cell]:
        """All cells, those that are quick first."""
        for way in WAYS:
            for method in self.field.methods if way == "alone" else self._editors:
                for choice in CHOICES:
                    names = ("dtype", "proxies", "alone", "in_a_row", "group", "max_new_tokens")
                    settings = {name: getattr(self.field, name) for name in names}
                    settings |= {"scored": self.field.scored} if way == "in a row" else {}
                    settings |= {"editor": self._editors[method].settings(self._loaded[0])}
                    settings = json.loads(json.dumps(settings, default=str))
                    yield Cell(self.field.model, method, choice, way, Path(self.data[way]).name, settings)

    def place(self, cell: Cell) -> Path:
        """Folder of a cell."""
        return self.folder / folder_name(cell.method) / cell.choice / folder_name(cell.way)

    def make(self, cell: Cell) -> Cell:
        """Edit, score, and tell what was found.

        Raises:
            LGAError: If the method refuses the data or the model.
        """
        L.seed_everything(0, verbose=False)
        gc.collect()
        alone = cell.way == "alone"
        scored = None if alone else self.field.scored
        place, (llm, tokenizer) = self.place(cell), self._loaded
        editor = copy.deepcopy(self._editors[cell.method])
        layer = self._forecast(cell, editor) if cell.choice == "forecast" else "default"
        module = LGAModule(
            self.field.model,
            layer=layer,
            editor=editor,
            mode=WAYS[cell.way],
            evaluation=replace(self._evaluation, scored=scored),
            model=llm,
            tokenizer=tokenizer,
        )
        report = EditReport(**self._asked, general=True, save_every=1, scored=scored)
        size = self.field.batch_size if alone else self.field.group
        data = self._data(cell.way, self.field.alone if alone else self.field.in_a_row, size)
        trainer = make_trainer(place, report, self.accelerator)
        trainer.validate(module, datamodule=data, verbose=False)
        requests = data.run_data().requests[: TIMED if alone else size]
        clock = time.process_time if llm.device.type == "cpu" else time.perf_counter  # whatever else a machine does
        since = clock()
        if alone:
            edit = editor.compute_each(llm, tokenizer, requests, module.edited_layers)[0]
        else:
            editor.compute(llm, tokenizer, requests, module.edited_layers)
            edit = module.schedule.delta if module.schedule and module.schedule.delta else WeightDelta({})
        seconds = (clock() - since) / len(requests)
        result = ValidationResult.load(place / VALIDATION_FILE)
        return replace(
            cell,
            layers=list(result.layers),
            requests=result.num_requests,
            scores=scores(result),
            seconds=seconds,
            megabytes=megabytes(edit, llm),
        )

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_model(self.field.model, self.field.dtype, self.field.attn_implementation)

    @cached_property
    def _evaluation(self) -> EvaluationConfig:
        """What the report would ask; the unedited model is asked once, and not for each cell."""
        return replace(EditReport(**self._asked).evaluation, unedited={})

    def _forecast(self, cell: Cell, editor: EditMethod) -> str:
        """The file with the layer that the forecast of a method names, made now if it is not there, or was made with other settings."""
        place = self.folder / folder_name(cell.method) / "forecast" / "proxies"
        path = place / ATTRIBUTION_FILE
        llm, tokenizer = self._loaded
        asked = json.loads(json.dumps(editor.settings_by_layer(llm)))
        if not path.is_file() or LocatorResult.load(path).editor != asked:
            module = LGAModule(self.field.model, editor=editor, model=llm, tokenizer=tokenizer)
            data = self._data("alone", self.field.proxies, self.field.batch_size)
            make_trainer(place, ScoreCollector(verbose=False), self.accelerator).fit(module, datamodule=data)
        return str(path)

    def _data(self, way: str, limit: int, batch_size: int) -> EditDataModule:
        """Facts that are split by subject alone, so that no data set has a proxy's subject among those that are edited."""
        return EditDataModule(self.data[way], limit=limit, batch_size=batch_size, seed=0, proxy_share=0.25)


def megabytes(edit: WeightDelta, model: PreTrainedModel) -> float:
    """Size of an edit as an adapter."""
    with tempfile.TemporaryDirectory() as folder:
        edit.save_pretrained(Path(folder) / "adapter", model)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6


def scores(result: ValidationResult) -> dict[str, float]:
    """What stands in the table, by column: percent, or relative to the unedited model."""
    metrics, general = result.metrics, result.general.scores if result.general else {}
    after = {name: metrics[family].after for name, family in FORCED.items() if family in metrics}
    if "rewrite" in metrics and (words := metrics["rewrite"].others.get("contained")):
        after["own words"] = words.after
    found = {name: 100 * share for name, share in after.items()}
    found |= {name: general[key].ratio for name, key in RELATIVE.items() if key in general}
    return {name: score for name, score in found.items() if not math.isnan(score)}


def write_page(cells: list[Cell], failed: list[str], left: int = 0) -> str:
    """The page of all models in a record.

    Args:
        cells: What was found.
        failed: What could not be done, with the reasons.
        left: Number of cells that are still to be made.
    """
    parts = [
        "# All methods, alone and in a row\n",
        "Made by `python benchmarks/lifelong.py --config configs/lifelong/smollm2.yaml --known known.jsonl --many counterfact.json --folder runs/lifelong --record docs/results/lifelong.json` (`known.jsonl` of `benchmarks/known.py`). "
        "Settings are those of that file: short searches behind few contexts. *Published* is `--model.layer default`: what is published for the model, else (as for these) the median depth of what is "
        "published for others. Scores in percent, of facts that share no subject with the proxies: efficacy, generalisation and locality "
        "teacher-forced, and their mean, by which a forecast chooses; *own words* is the share of facts whose wanted answer stands in the first words (`max_new_tokens`, 20) that the model says freely after the edit, with no text before the question; *general* the "
        "accuracy that is left in multiple choice about facts that nobody edits, and *perplexity* that of plain text, both relative to the unedited model; "
        "*s an edit* is processor time, of one edit of eight, or of one in a group.\n",
    ]
    for model in dict.fromkeys(cell.model for cell in cells):
        for way in WAYS:
            those = [cell for cell in cells if (cell.model, cell.way) == (model, way)]
            methods = [*dict.fromkeys(cell.method for cell in those)]
            those.sort(key=lambda cell: (methods.index(cell.method), cell.choice))
            if those:
                first = those[0]
                how = f"{first.requests} facts of {first.source}, {way}"
                if way == "in a row":
                    how += f", {first.settings['group']} at a time, {first.settings['scored']} of them, drawn at random, scored"
                title = f"{Path(model).name}, {first.settings['dtype']}: {how}"
                parts.append(Sheet(title, HEADINGS, [_row(cell) for cell in those]).markdown())
    if left:
        parts.append(f"{left} more cells are not made yet: the same command goes on with them.\n")
    if failed:
        parts.append("Not done:\n\n" + "".join(f"- {line}\n" for line in failed))
    return "\n".join(parts)


FORCED = {"efficacy": "rewrite", "generalisation": "rephrase", "locality": "locality"}
RELATIVE = {"general": "choice", "perplexity": "perplexity"}
HEADINGS = ("method", "layers", "chosen by", *FORCED, "mean", "own words", *RELATIVE, "s an edit", "MB")


def _row(cell: Cell) -> list[str]:
    forced = [cell.scores[name] for name in FORCED if name in cell.scores]
    known = cell.scores | ({"mean": fmean(forced)} if forced else {})
    percent = [f"{known[name]:.1f}" if name in known else "" for name in (*FORCED, "mean", "own words")]
    ratios = [cell.scores.get(name, math.nan) for name in RELATIVE]
    relative = ["" if math.isnan(ratio) else f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.0e}x" for ratio in ratios]
    seconds = "" if cell.seconds is None else f"{cell.seconds:.3g}"
    size = "" if cell.megabytes is None else f"{cell.megabytes:.2g}" if cell.megabytes < 10 else f"{cell.megabytes:.0f}"
    return [cell.method, name_layers(cell.layers), cell.choice, *percent, *relative, seconds, size]


def run(tried: Field, options: argparse.Namespace) -> list[str]:
    """Make what is not there yet, and write the page after each cell.

    Returns:
        What could not be done, with the reasons.
    """
    runner = FieldRun(tried, {"alone": options.known, "in a row": options.many}, options.folder, options.accelerator)
    record, every = Record(options.record), [*runner.cells()]
    failed: list[str] = []
    cells = [
        cell
        for cell in every
        if cell.way in options.ways and cell.method in options.methods and cell.choice in options.choices
    ]

    def leave_page() -> None:
        write_text(options.output, write_page(record.cells, failed, sum(cell not in record for cell in every)))

    for number, cell in enumerate(cells, start=1):
        if cell in record:
            continue
        CONSOLE.print(f"{number} of {len(cells)}: {cell.method}, {cell.choice}, {cell.way}")
        try:
            record.add(runner.make(cell))
        except LGAError as error:  # the others may do
            failed.append(f"{cell.method}, {cell.choice}, {cell.way}: {str(error).splitlines()[0]}")
            CONSOLE.print(f"Not done: {failed[-1]}")
        leave_page()
    leave_page()
    return failed


def read_field(path: Path | str) -> Field:
    """The field of a configuration; one that is none ends the program, with the reason."""
    found: Field = auto_cli(Field, as_positional=False, args=[f"--config={path}"])
    return found


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a file of configs/lifelong")
    parser.add_argument(
        "--known", required=True, help="facts that the model knows: proxies, and those that are edited alone"
    )
    parser.add_argument("--many", required=True, help="facts that are edited in a row")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/lifelong"), help="for all that is found, of all models"
    )
    parser.add_argument(
        "--record", type=Path, help="what is known of all models; by default lifelong.json in the folder"
    )
    parser.add_argument("--output", type=Path, help="the page; by default beside the record")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="these methods alone")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES), metavar="CHOICE")
    parser.add_argument("--alone", type=int, help="requests that are edited alone")
    parser.add_argument("--in-a-row", type=int, help="requests that are edited one group after the other")
    parser.add_argument("--group", type=int, help="requests of a group")
    options = parser.parse_args()
    options.record = options.record or options.folder / "lifelong.json"
    options.output = options.output or options.record.with_suffix(".md")
    hush()
    tried = read_field(options.config)
    known = [*tried.methods, *tried.variants]
    if unknown := [name for name in options.methods or () if name not in known]:
        parser.error(f"--methods must be among {known} of the configuration, got {unknown}")
    options.methods = options.methods or known
    given = {
        name: getattr(options, name) for name in ("alone", "in_a_row", "group") if getattr(options, name) is not None
    }
    try:
        failed = run(replace(tried, **given), options)
    except LGAError as error:
        sys.exit(f"lifelong.py: {error}")
    CONSOLE.print(f"Page: {options.output}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
