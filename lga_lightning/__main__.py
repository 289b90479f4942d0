"""``lga``: answers ``--help`` and ``--version`` at once, and loads the rest only when there is work."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lga_lightning.utils.processes import Processes

LONGEST = 4000  # characters of a message: data that it names may be megabytes

HELP = """\
usage: lga [--help] [--version] {fit,validate,predict,compare,moments} [options]

Find the layer of a causal language model at which facts are best edited, edit them there, score the edits, and ship them.

commands:
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

options of fit, validate and predict (all of them: lga fit --help, lga validate --help, ...):
  --model.model_name NAME          smollm2-135m (embedded), gemma3-270m, a Hub id, a local folder, or a local .gguf file
  --model.layer LAYER              what to edit: golden (what fit found), 5, 4-8, all, default, or the path of an attribution.json
  --model.locator NAME             how fit scores layers: EditForecast, LGA, ValueGradient, CausalTracing, LayerSweep, ...
  --verify, --verify.budget N      fit: let a race of N edits look over the forecast
  --model.editor NAME              how facts are edited: RROME, ROME, MEMIT, EMMET, AlphaEdit, PMET, FTL, FTM, UltraEdit, LocFT,
                                   CrispEdit
  --model.mode MODE                independent (each alone; validate), batch (all together; predict), sequential
  --model.guards+=NormGuard        what every edit must spare: NormGuard, SingularGuard
  --model.governor.locality SHARE  sequential: stop at a limit (perplexity_ratio, locality, relative_norm), and keep what is within it
  --data.requests SOURCE           a JSON, JSON Lines, CSV or Parquet file, or hub:owner/name; the bundled facts by default
  --data.format FORMAT             auto (default), jsonl, counterfact, zsre_mend_eval, knowedit, qaedit, ...
  --data.limit N                   use the first N requests; with --data.seed S, a random N
  --data.proxy_share SHARE         split by subject: this share for fit, the rest for validate and predict
  --data.chat_template true        ask in the model's chat template
  --edits.protocol wild            let the model speak to its own end, asked as a user asks, with and without a context
  --edits.judge MODEL|ADDRESS      let a language model say whether the answers are right; --edits.judge_model NAME at an address
  --edits.output FOLDER            predict: where to write; --edits.overwrite true replaces what is there
  --trainer.default_root_dir PATH  where results are left and looked for; the current folder by default
  --trainer.accelerator, --trainer.devices, ...   as in Lightning
  --config PATH                    a YAML file with any of these (configs/); --print_config writes one
  --ckpt_path PATH                 fit: go on where an interrupted run stopped (attribution.ckpt)

options of compare, beside those of --model, --data and --trainer:
  --compare.locators {NAME: LOCATOR, ...}, --compare.tests N, --compare.others [SOURCE, ...],
  --compare.judge {sweep,candidates}, --compare.candidates true

options of moments:
  --model.model_name NAME, --model.layers LAYERS, --model.text SOURCE, --model.tokens N

examples:
  lga fit --config configs/quickstart.yaml
  lga fit      --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests facts.jsonl
  lga validate --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests facts.jsonl
  lga predict  --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --data.requests my_edits.jsonl
"""


def main() -> None:
    """Entry point of the command ``lga``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from lga_lightning._version import __version__

        sys.stdout.write(f"lga-lightning {__version__}\n")
        sys.exit(0)

    from lga_lightning.utils.processes import Processes
    from lga_lightning.utils.signals import interruptible

    processes = Processes()
    with interruptible(), processes.together():
        if not _ran(processes):
            sys.exit(2)


def _ran(processes: Processes) -> bool:
    """Run the command; False where it has failed, and whoever has to say why has said it."""
    from lga_lightning.exceptions import LGAError
    from lga_lightning.utils.text import printable

    try:
        from lga_lightning.cli import run

        run()
    except (LGAError, OSError) as error:
        if processes.speaks():
            sys.stderr.write(f"\nlga: {printable(str(error)[:LONGEST])}\n")
        return False
    except Exception:  # often of nothing but another one's end
        if processes.speaks():
            raise
        return False
    except (KeyboardInterrupt, SystemExit):
        if not processes.failed:
            raise
        return False
    return True


if __name__ == "__main__":
    main()
