"""README and docs: code runs, commands are ones that the command line takes, links lead somewhere."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from lightning import LightningModule
from torch.utils.data import DataLoader

from lga_lightning import MEMIT, RROME, find_golden_layer, load_model
from lga_lightning.cli import run
from lga_lightning.cli.edit import make_parser, parsed
from lga_lightning.data.loading import as_requests
from tests.helpers.cli import FAST_METHOD
from tests.helpers.data import rows, write_rows
from tests.helpers.models import requests, tiny_model
from tests.helpers.pages import Block, blocks_of, extension

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = list(dict.fromkeys(page for page in PAGES if page.name != "CHANGELOG.md"))
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MODELS = ("meta-llama/Llama-3.2-3B", "smollm2-135m")
"""Names for which a tiny model stands in."""
ELSEWHERE = {"pip", "python3", "git", "vllm", "curl", "convert_lora_to_gguf.py"}
"""Commands that are not ours to check."""
RUN_ELSEWHERE = ("docs/extending", "docs/serving")
"""Pages whose code tests/extending and tests/editing/test_serving.py run."""
WITH_TRAINER = ("fit", "validate", "predict", "compare", "moments")


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


def python_by_page() -> list[list[Block]]:
    """Blocks of Python that are run here, page by page; other tests run the pages of ``RUN_ELSEWHERE``."""
    asked = [b for b in BLOCKS if b.language == "python" and not b.not_run and not b.page.startswith(RUN_ELSEWHERE)]
    return [[b for b in asked if b.page == page] for page in dict.fromkeys(b.page for b in asked)]


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_every_block_says_what_it_is(block):
    assert block.language in {"python", "console", "yaml", "text", "bibtex"}


@pytest.mark.timeout(600)  # 48 facts on a real model, on whatever machine
@pytest.mark.embedded
@pytest.mark.usefixtures("embedded_package")
def test_the_five_lines():
    block = next(b for b in BLOCKS if b.page == "README.md" and b.code.startswith(">>> "))
    test = doctest.DocTestParser().get_doctest(block.code, {}, "README.md", "README.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.attempted >= 5
    assert result.failed == 0


class Training(LightningModule):
    """A training run of the reader's, with a language model somewhere inside; one step long."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.net = torch.nn.ModuleDict({"llm": model})
        self.scale = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.trainer.should_stop = True
        return self.scale * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], 0.1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(1, 1))


@pytest.fixture
def at_hand(tmp_path, monkeypatch, tokenizer) -> dict:
    """What pages take for granted: files in the working directory, a model of some layers, a training run."""
    monkeypatch.chdir(tmp_path)
    for method in (RROME, MEMIT):  # quick, where a page leaves the defaults
        monkeypatch.setattr(method, "__init__", partialmethod(method.__init__, **FAST_METHOD))
    tiny_model("llama", num_hidden_layers=10).save_pretrained("model")
    tokenizer.save_pretrained("model")
    write_rows(tmp_path / "facts.jsonl", rows(5))  # proxies and tests
    write_rows(tmp_path / "my_edits.jsonl", rows(2))
    model, tokenizer = load_model("model")
    return {
        "model": model,
        "tokenizer": tokenizer,
        "your_module": Training(load_model("model")[0]),
        "a": torch.ones(1, 24),
        "b": torch.ones(24, 1),
    }


def with_files(block: Block, names: dict) -> None:
    """The files that a block reads and that another one, or a command, has written."""
    if '"adapter"' in block.code and "save_pretrained" not in block.code:
        editor = RROME(steps=2, contexts_each=0, second_moment="identity")
        delta = editor.compute(names["model"], names["tokenizer"], as_requests(rows(1)), [1])
        delta.save_pretrained("adapter", names["model"])
    if "runs/quickstart" in block.code:
        result = find_golden_layer(
            names["model"], names["tokenizer"], requests(2), editor=RROME(second_moment="identity")
        )
        result.save(Path("runs/quickstart/attribution.json"))


@pytest.mark.parametrize("blocks", python_by_page(), ids=lambda blocks: blocks[0].page)
def test_python_runs(blocks, at_hand):
    names = at_hand
    for block in (b for b in blocks if not b.code.startswith(">>> ")):
        with_files(block, names)
        code = "\n" * block.line + block.code  # so that a traceback has the page's line
        for model in MODELS:
            code = code.replace(model, "model")
        exec(compile(code, block.page, "exec"), names)
        shutil.rmtree("adapter", ignore_errors=True)


CONSOLE = [b for b in BLOCKS if b.language == "console"]


@pytest.mark.parametrize("block", CONSOLE, ids=name_of)
def test_commands_are_accepted(block, monkeypatch, tmp_path):
    if "docs/extending" in block.page and "structure" not in block.page:
        monkeypatch.syspath_prepend(tmp_path)
        extension(tmp_path, block.page.removeprefix("docs/"), stem(block))
    monkeypatch.chdir(ROOT)
    assert block.commands
    for command in block.commands:
        words = [word for word in shlex.split(command, comments=True) if word != "..."]
        while re.fullmatch(r"\w+=\S*", words[0]):
            words.pop(0)
        check(words, monkeypatch)


def stem(block: Block) -> str:
    """Name of the file that an extending page shows."""
    found = re.search(r"`extras/(\w+)\.py`", (ROOT / block.page).read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check one command, as far as that goes without doing what it says."""
    if words[0] == "lga" and words[1] in WITH_TRAINER:
        if "--model.structure" in words:  # its page's test runs it: transformers takes a model type only once
            at = words.index("--model.structure")
            del words[at : at + 2]
        monkeypatch.setattr(sys, "argv", ["lga"])
        with pytest.raises(SystemExit) as stop:
            run([*words[1:], "--print_config"])
        assert not stop.value.code
    elif words[:2] == ["lga", "edit"]:
        parsed(make_parser(), words[2:])
    elif words[0] == "lga":
        place = "lga_lightning/cli/facts.py" if words[1] in ("facts", "remove") else "lga_lightning/__main__.py"
        check_options(words, place)
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    elif words[0] == "python" and words[1].startswith("examples/"):
        assert (ROOT / words[1]).is_file()
        check_options(words, "examples/parts.py")
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        check_options(words, words[1])
    else:
        assert words[0] in ELSEWHERE or words[1] in ELSEWHERE, words


def check_options(words: list[str], place: str) -> None:
    """Check that a file has all options of a command."""
    script = (ROOT / place).read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in script, option


def anchors(page: Path) -> set[str]:
    """What a heading is linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_blank_line_comes_before_a_list(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for paragraph in re.split(r"\n\s*\n", text):
        first, *others = paragraph.strip().splitlines() or [""]
        starts = first.startswith(("- ", "#")) or re.match(r"\d+\. ", first)
        assert starts or not any(line.startswith("- ") for line in others), first  # the site would show one paragraph
