"""``lga edit``: the whole job in one command, without Lightning."""

from __future__ import annotations

import re
from argparse import ArgumentError, HelpFormatter
from collections.abc import Sequence
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from lga_lightning.cli.device import device_of
from lga_lightning.cli.refusal import refusal
from lga_lightning.data.loading import load_requests, name_of_requests
from lga_lightning.data.requests import EditRequest
from lga_lightning.data.short_facts import SPELLING, parse_fact
from lga_lightning.editing import EditMethod
from lga_lightning.exceptions import SettingError
from lga_lightning.functional import AUTO, SHORT_RACE
from lga_lightning.job import EditJob, FinishedEdit
from lga_lightning.locators.race import RaceSettings
from lga_lightning.models.chat import ChatTokenizer
from lga_lightning.models.loading import DTYPES, EMBEDDED_NAME, load_model
from lga_lightning.models.quantization import Quantization

BEGIN_WITH = "--editor=RROME"  # so that `--editor.steps` needs no `--editor`


def make_parser() -> ArgumentParser:
    """The options of ``lga edit``."""
    parser = ArgumentParser(
        prog="lga edit",
        usage="lga edit [FACTS] [options]",
        description="Edit facts: find the layer if none is known, edit, score, and write a PEFT adapter with its card and report.html.",
        exit_on_error=False,
        formatter_class=HelpFormatter,
    )
    facts = parser.add_argument_group("facts, in one of three ways, or in several")
    facts.add_argument(
        "facts", nargs="?", default=None, help="A JSON, JSON Lines, CSV or Parquet file, or hub:owner/name."
    )
    facts.add_argument(
        "--fact", action="append", default=[], help=f"A fact in one line, as in {SPELLING}; as often as you like."
    )
    facts.add_argument("--prompt", default=None, help="The prompt of a fact; with --subject and --target.")
    facts.add_argument("--subject", default=None, help="What the fact is about, in the prompt's letters.")
    facts.add_argument("--target", default=None, help="The answer that the model is to give.")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=EMBEDDED_NAME,
        help="A Hub id, a local folder or .gguf file, gemma3-270m, or smollm2-135m (default).",
    )
    model.add_argument("--dtype", default="float32", help=f"auto, or one of {', '.join(DTYPES)}; float32 by default.")
    model.add_argument(
        "--quantization",
        choices=get_args(Quantization),
        default=None,
        help="What linear maps are kept in: int8 or int4 (torchao), nf4 (bitsandbytes); none by default.",
    )
    model.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
    model.add_argument("--chat-template", action="store_true", help="Ask in the model's chat template.")
    model.add_argument("--trust-remote-code", action="store_true", help="Let code that comes with the model run.")
    how = parser.add_argument_group("edit")
    how.add_argument(
        "--editor",
        type=EditMethod,
        help="RROME (default), ROME, MEMIT, AlphaEdit, FTM, UltraEdit, ...; settings as in --editor.steps 12.",
    )
    how.add_argument(
        "--layer", default=AUTO, help="auto (known, or found now), 5, 4-8, default, or an attribution.json."
    )
    how.add_argument(
        "--proxies",
        default=None,
        help="Facts to find the layer by; bundled ones that the model knows by default.",
    )
    how.add_argument(
        "--race",
        default=str(SHORT_RACE.budget),
        help="Real edits in that search: a number (default 24), '5 min', or 0.",
    )
    how.add_argument(
        "--on", metavar="ADAPTER", default=None, help="An adapter to edit on top of; the new one holds both."
    )
    how.add_argument(
        "--batch-size", metavar="N", type=int, default=8, help="Facts that are worked on at once; 8 by default."
    )
    end = parser.add_argument_group("result")
    end.add_argument(
        "--require", default="", help="Else write nothing: 'efficacy>=0.9, locality>=0.85, general>=0.98x'."
    )
    end.add_argument("--output", default="adapter", help="Folder of the adapter; adapter by default.")
    end.add_argument("--overwrite", action="store_true", help="Replace a folder that is there.")
    end.add_argument("--max-rank", metavar="N", type=int, default=None, help="Rank that no change is written above.")
    return parser


def parsed(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """What the words behind the verb say.

    Args:
        parser: That of :func:`make_parser`.
        words: The words.

    Raises:
        SettingError: If they say nothing, or an option is none of this verb.
    """
    for word in words:
        name = word.partition("=")[0]
        # which the parser would take for the option before the point
        if re.fullmatch(r"--(?!editor\.)[\w-]+\.[\w.]+", name):
            own = _own_option(parser, name)
            here = "" if own is None else f"; here it is {own}"
            raise SettingError(f"`lga edit` has no option {name}{here}. Its options: lga edit --help.")
    try:
        return parser.parse_args([BEGIN_WITH, *words])
    except ArgumentError as error:
        raise refusal(parser, error, "edit") from error


def edit(words: Sequence[str]) -> FinishedEdit:
    """Run ``lga edit``.

    Args:
        words: The words behind the verb.

    Raises:
        LGAError: If something about the input cannot be used, or the edits are not what is required.
    """
    parser = make_parser()
    given = parsed(parser, words)
    facts, name = _facts(given)
    job = EditJob(
        editor=parser.instantiate_classes(given).editor,
        layer=given.layer,
        proxies=given.proxies,
        race=_race(given.race),
        on=given.on,
        require=given.require,
        output=given.output,
        overwrite=given.overwrite,
        max_rank=given.max_rank,
        batch_size=given.batch_size,
        show=True,
    )
    device = device_of(given.device)
    model, tokenizer = load_model(
        given.model, given.dtype, trust_remote_code=given.trust_remote_code, quantization=given.quantization
    )
    model.to(device)
    return job.run(model, ChatTokenizer(tokenizer) if given.chat_template else tokenizer, facts, name)


def _own_option(parser: ArgumentParser, name: str) -> str | None:
    """How this verb calls an option of the others (``--model.dtype``), which messages name; None where it has none like it."""
    if name.startswith("--model.editor."):
        return name.replace("model.", "", 1)
    own = f"--{name.rpartition('.')[2].replace('_', '-')}"
    return own if own in parser._option_string_actions else None


def _facts(given: Namespace) -> tuple[list[EditRequest], str]:
    """The facts of a command line, and what to call them."""
    facts = [parse_fact(text) for text in given.fact]
    parts = (given.prompt, given.subject, given.target)
    if given.prompt and given.target:
        facts.append(EditRequest(given.prompt, given.subject, given.target, id="--prompt"))
    elif any(part is not None for part in parts):
        raise SettingError("A fact needs --prompt and --target, and for most methods --subject.")
    if given.facts is not None:
        return [*load_requests(given.facts, strict=True, split="test").requests, *facts], name_of_requests(given.facts)
    if not facts:
        raise SettingError(
            "There is no fact to edit. Name a file (lga edit my_edits.jsonl), or give a fact: --fact "
            f"{SPELLING}, or --prompt, --subject and --target."
        )
    return facts, "the command line"


def _race(budget: str) -> RaceSettings | None:
    """The race of a budget; a number of edits is a number, so that it is the same in Python."""
    if budget == "0":
        return None
    return RaceSettings(budget=int(budget) if budget.isdecimal() else budget)
