"""The study of Golden Layers and Where to Find Them (arXiv 2602.20207): one command a model, one page for all.

    python benchmarks/paper.py --config configs/paper/small.yaml --folder runs/paper --output docs/results/paper.md

For every data set and method of a configuration, locators pick a layer on proxies, and a sweep of edits of other requests over all
layers judges it, as ``lga compare`` does. Each such comparison has a folder of its own and is kept: the same command goes on where
it was interrupted, and does nothing twice. Locators that do not depend on the method score the proxies once a data set. The page
is written anew after each comparison, over all models in the folder: the paper's claims, and a table.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
import torch
from jsonargparse import auto_cli
from paper_page import ANSWER, CELL_FILE, TEXT, TRACING, write_page
from quiet_runs import hush, make_trainer
from rich.console import Console

from lga_lightning import LGAModule
from lga_lightning.compare import LocatorComparison, folder_name
from lga_lightning.editing import EditMethod
from lga_lightning.exceptions import LGAError, SettingError
from lga_lightning.locators import LGA, CausalTracing, FixedLayer, LayerLocator, MiddleLayer
from lga_lightning.models.loading import load_model
from lga_lightning.modules.datamodule import EditDataModule
from lga_lightning.modules.frozen import Dtype
from lga_lightning.results.evidence import EVIDENCE_FILE
from lga_lightning.utils.io import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
OF_THE_PROXIES: dict[str, Callable[[], LayerLocator]] = {  # whatever the method
    ANSWER: LGA,
    TEXT: lambda: LGA(loss="text"),
    TRACING: CausalTracing,
}


@dataclass(frozen=True)
class Study:
    """A model, and what is tried on it; the content of a configuration.

    Args:
        model: Name of the model, as ``--model.model_name`` takes it.
        data: Data sets by name: each a file or an address, as ``--data.requests`` takes it; null for the bundled facts.
        methods: Editing methods by name.
        dtype: Dtype of the weights.
        attn_implementation: Attention that transformers is to use.
        proxies: Proxy requests of each data set.
        tests: Test requests of each data set.
        batch_size: Proxies a batch.
        tests_batch_size: Tests a batch of the sweep.
        only_known: Whether to leave out requests whose old answer the model does not give. Causal tracing always does.
        chat: Names of the data sets that are questions, asked in the chat format of the model's tokenizer.
        margin: Points that may be lost where something is to be nearly as good as the best.
    """

    model: str
    data: dict[str, str | None]
    methods: dict[str, EditMethod]
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    proxies: int = 100
    tests: int = 100
    batch_size: int = 8
    tests_batch_size: int = 8
    only_known: bool = False
    chat: tuple[str, ...] = ()
    margin: float = 2.0


class StudyRun:
    """Makes the comparisons of a study that are not there yet.

    Args:
        study: The study.
        folder: Folder of all studies.
        accelerator: Where to compute, as Lightning names it.
    """

    def __init__(self, study: Study, folder: Path, accelerator: str = "auto") -> None:
        self.study = study
        self.folder = folder / folder_name(Path(study.model).name)
        self.accelerator = accelerator

    def place(self, data: str, method: str) -> Path:
        """Folder of a comparison."""
        return self.folder / folder_name(data) / folder_name(method)

    def cell(self, data: str, method: str) -> dict[str, object]:
        """What a comparison is of."""
        names = ("model", "dtype", "attn_implementation", "proxies", "tests", "only_known")
        settings = {name: getattr(self.study, name) for name in names}
        chat = {"chat": True} if data in self.study.chat else {}
        asked = {
            "data": data,
            "source": self.study.data[data],
            "method": method,
            "editor": repr(self.study.methods[method]),
        }
        return {**settings, **asked, **chat}

    def requests(self, data: str) -> EditDataModule:
        """A data set, a random half of whose subjects serve as proxies where it has no splits of its own."""
        study = self.study
        return EditDataModule(
            study.data[data],
            limit=study.proxies,
            batch_size=study.batch_size,
            seed=0,
            proxy_share=0.5,
            chat_template=data in study.chat,
        )

    def is_done(self, data: str, method: str) -> bool:
        """Whether a comparison is there; its data set is not read again."""
        path = self.place(data, method) / CELL_FILE
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == self.cell(data, method)

    def compare(self, data: str, method: str) -> None:
        """Make a comparison, or the rest of it.

        Raises:
            LGAError: If its data cannot be used, or what is in its folder was made with other settings.
        """
        L.seed_everything(0, verbose=False)
        gc.collect()  # trainers hold on to their modules, and these to the second moments of all layers
        torch.cuda.empty_cache()
        place = self.place(data, method)
        (place / CELL_FILE).unlink(missing_ok=True)
        self._share_evidence(data, method)
        editor = copy.deepcopy(self.study.methods[method])  # what it finds out goes when it does
        llm, tokenizer = self._loaded
        module = LGAModule(
            self.study.model, editor=editor, only_known=self.study.only_known, model=llm, tokenizer=tokenizer
        )
        locators = {name: make() for name, make in OF_THE_PROXIES.items()}
        locators["published default"] = FixedLayer(editor.default_layers(llm)[-1])
        locators["MiddleLayer"] = MiddleLayer()
        locators[f"{type(module.locator).__name__}, the default"] = module.locator
        comparison = LocatorComparison(
            locators, tests=self.study.tests, batch_size=self.study.tests_batch_size, judge="sweep"
        )

        def make(folder: Path, callback: L.Callback) -> L.Trainer:
            return make_trainer(folder, callback, self.accelerator)

        comparison.run(module, self.requests(data), place, make).save(place)
        write_json(place / CELL_FILE, self.cell(data, method))

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_model(self.study.model, self.study.dtype, self.study.attn_implementation)

    def _share_evidence(self, data: str, method: str) -> None:
        """Take over what locators found out about the proxies beside another method; whoever loads it checks what it is of."""
        for name in OF_THE_PROXIES:
            part = Path("proxies", folder_name(name), EVIDENCE_FILE)
            mine = self.place(data, method) / part
            others = [self.place(data, other) / part for other in self.study.methods]
            found = next((path for path in others if path.is_file()), None)
            if found is not None and not mine.is_file():
                mine.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, mine)


def read_study(path: Path | str) -> Study:
    """The study of a configuration; one that is no study ends the program, with the reason."""
    study: Study = auto_cli(Study, as_positional=False, args=[f"--config={path}"])
    return study


def narrowed(study: Study, options: argparse.Namespace) -> Study:
    """The study with what the command line has instead.

    Raises:
        SettingError: If it names a method or a data set that the configuration has not.
    """
    data = dict(word.partition("=")[::2] for word in options.data or ())
    for what, wanted, known in (
        ("methods", options.methods or (), study.methods),
        ("data", [name for name, source in data.items() if not source], study.data),
        ("chat", options.chat or (), {**study.data, **data}),
    ):
        if unknown := [name for name in wanted if name not in known]:
            raise SettingError(f"`--{what}` must be among {list(known)} of the configuration, got {unknown}.")
    names = ("model", "dtype", "proxies", "tests", "margin")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(
        study,
        **given,
        data={name: source or study.data[name] for name, source in data.items()} or study.data,
        methods={name: study.methods[name] for name in options.methods or study.methods},
        chat=tuple(options.chat) if options.chat is not None else study.chat,
    )


def run_study(study: Study, options: argparse.Namespace) -> Sequence[str]:
    """Make what is not there yet, and write the page after each.

    Returns:
        What could not be done, with the reasons.
    """
    run = StudyRun(study, options.folder, options.accelerator)
    not_done: list[str] = []
    wanted = [(data, method) for data in study.data for method in study.methods]
    for number, (data, method) in enumerate(wanted, start=1):
        if run.is_done(data, method):
            continue
        CONSOLE.print(f"{number} of {len(wanted)}: {data}, {method}")
        try:
            run.compare(data, method)
        except (LGAError, torch.OutOfMemoryError) as error:  # the others may do
            reason = str(error).splitlines()[0]
            not_done.append(f"{Path(study.model).name}, {data}, {method}: {reason}")
            CONSOLE.print(f"Not done: {reason}")
        write_text(options.output, write_page(options.folder, study.margin, not_done))
    write_text(options.output, write_page(options.folder, study.margin, not_done))
    return not_done


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a file of configs/paper")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/paper"), help="for all that is found out, of all models"
    )
    parser.add_argument("--output", type=Path, help="the page; by default paper.md in the folder")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--model", help="another model")
    parser.add_argument("--dtype", help="of its weights")
    parser.add_argument("--data", nargs="+", metavar="NAME[=SOURCE]", help="these data sets alone, and where they are")
    parser.add_argument("--chat", nargs="*", metavar="NAME", help="data sets of questions, asked in the chat format")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="these methods alone")
    parser.add_argument("--proxies", type=int, help="of each data set")
    parser.add_argument("--tests", type=int, help="of each data set")
    parser.add_argument("--margin", type=float, help="points that may be lost where something is nearly as good")
    options = parser.parse_args()
    options.output = options.output or options.folder / "paper.md"
    hush()
    try:
        failed = run_study(narrowed(read_study(options.config), options), options)
    except LGAError as error:
        sys.exit(f"paper.py: {error}")
    CONSOLE.print(f"Page: {options.output}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
