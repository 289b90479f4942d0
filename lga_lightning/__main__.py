"""``lga``: answers ``--help`` and ``--version`` at once, and loads the rest only when there is work."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lga_lightning.utils.processes import Processes

HELP = """\
usage: lga [--help] [--version] {edit,fit,validate,predict,compare,moments,facts,remove} [options]

Find the layer of a causal language model at which facts are best edited, edit them there, score the edits, and ship them.

commands:
  edit       the whole job: find the layer if none is known, edit facts, score them, and write them if they are good enough
             -> adapter/ (a PEFT LoRA adapter) with its card and report.html; lga edit --help
  fit        forecast what edits at every layer would do, on proxy requests, and pick the golden one
             -> report.html, attribution.json, layers.png, attribution.ckpt
  validate   edit facts and score rewrite, rephrase, portability, locality and more, before and after
             -> report.html, validation.json, requests.parquet
  predict    edit facts, score them, and write the edit
             -> adapter/ (a PEFT LoRA adapter), or with --merge merged/ (the edited model)
  compare    let locators pick a layer each, and judge them by edits of other requests at every layer
             -> comparison.md, comparison.json, comparison.png
  moments    estimate ahead of time, from text, the second moments of keys that MEMIT and others need
             -> a folder in the cache, where validate and predict find it
  facts      list the facts of an adapter, with their ids (lga facts adapter/)
  remove     take facts out of an adapter again (lga remove adapter/ --fact ID)

each with its options: lga fit --help, ...; also
  --debug                          show tracebacks of errors (or LGA_DEBUG=1)
  --print_completion {bash,zsh}    a script that completes verbs and options: eval "$(lga --print_completion bash)"
  --version

examples:
  lga edit --fact 'The capital of France is|France|Rome'
  lga edit my_edits.jsonl --model meta-llama/Llama-3.2-3B --dtype bfloat16 --require 'efficacy>=0.9, locality>=0.85'
  lga fit --config configs/quickstart.yaml
  lga fit      --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests facts.jsonl
  lga validate --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests facts.jsonl
  lga predict  --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests my_edits.jsonl
"""


NEXT = """\
lga finds the layer of a language model at which facts are best edited, and edits them there. Next:

  {next}

With the embedded model and bundled facts; --model.model_name takes another model, and --data.requests your facts.
All verbs: lga --help
"""
STEPS = (  # the file that a verb leaves in the current folder, and the verb
    ("adapter", "lga --help         # attribution, scores and adapter are here: see what else there is"),
    ("validation.json", "lga predict        # the scores are here: write the edits as an adapter"),
    ("attribution.json", "lga validate       # the golden layer is here: edit facts there, and score the edits"),
    (
        "",
        "lga edit --fact 'The capital of France is|France|Rome'   # from a fact to an adapter\n  lga fit            # or step by step: where? a forecast of edits at each layer",
    ),
)


def main() -> None:
    """Entry point of the command ``lga``."""
    _start()
    _answer_at_once(sys.argv[1:])

    from lga_lightning.utils.processes import Processes
    from lga_lightning.utils.signals import interruptible

    processes = Processes()
    with interruptible(), processes.together():
        code = _run(processes)
        if code:
            sys.exit(code)


def _run(processes: Processes) -> int:
    """Run the command; its exit code, once whoever has to say why it failed has said it."""
    from lga_lightning.exceptions import LGAError
    from lga_lightning.utils.text import complain

    try:
        from lga_lightning.cli import run

        run()
    except (LGAError, OSError) as error:
        if processes.speaks():
            complain(str(error))
        return getattr(error, "exit_code", 2)
    except Exception as error:  # of several processes, often nothing but another one's end
        if not processes.speaks():
            return 2
        complain(_unexpected(error))
        return 1
    except (KeyboardInterrupt, SystemExit):
        if not processes.failed:
            raise
        return 2
    return 0


def _start() -> None:
    """Make the terminal take any sign, hush what is said of any run where torchao is installed, and take note of ``--debug``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # of kernels that nothing here needs, when transformers imports torchao
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["LGA_DEBUG"] = "1"  # of further processes as well


def _answer_at_once(words: list[str]) -> None:
    """Answer what needs nothing heavy, and end; return where there is work."""
    verbs = re.findall(r"^  (\w+) ", HELP.partition("commands:")[2].partition("\n\n")[0], re.MULTILINE)
    if not words:
        _say(NEXT.format(next=next(step for file, step in STEPS if Path(file).exists())), 2)
    if words[0] in ("-h", "--help", "--help.all"):
        _say(HELP)
    if words[0] == "--version":
        from lga_lightning._version import __version__

        _say(f"lga-lightning {__version__}\n")

    from lga_lightning.cli import help

    if words[0] == "--print_completion":
        _say(help.completion(words[1] if len(words) > 1 else "bash", tuple(verbs)))
    if words[0] not in verbs:
        from lga_lightning.utils.text import complain, near

        complain(
            f"{words[0]!r} is no verb{near(words[0], verbs) or '.'} There are {', '.join(verbs)}, each before its options: lga --help."
        )
        sys.exit(2)
    if words[0] in help.VERBS and {"-h", "--help"} & {*words[1:]}:
        about = re.search(rf"^  {words[0]} +(.*(?:\n {{10,}}.*)*)", HELP, re.MULTILINE)
        _say(help.verb_help(words[0], re.sub(r"\n +", "\n", about[1] if about else "")))
    sys.argv[1:] = ["--help" if word == "--help.all" else word for word in words]


def _say(text: str, code: int = 0) -> NoReturn:
    sys.stdout.write(text)
    sys.exit(code)


def _unexpected(error: Exception) -> str:
    """An error that nobody foresaw, in a paragraph with the last line of ours that it went through."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "lga_lightning" in frame.filename]
    place = (
        f" (lga_lightning{ours[-1].filename.rpartition('lga_lightning')[2]}, line {ours[-1].lineno})" if ours else ""
    )
    said = " ".join(str(error).split())
    return (
        f"an error that should not be: {type(error).__name__}{place}: {said[:400]}\nThe same command with --debug shows the "
        "traceback; please report it with that."
    )


if __name__ == "__main__":
    main()
