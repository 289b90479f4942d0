"""``lga``: answers ``--help`` and ``--version`` at once, and loads the rest only when there is work."""

from __future__ import annotations

import os
import sys

HELP = """\
usage: lga [--help] [--version] {fit,validate} [options]

Find the layer of a causal language model at which facts are best edited, edit them there, and score the edits.

commands:
  fit        score every layer on proxy requests and pick the golden one
             -> report.html, attribution.json, layers.png, attribution.ckpt
  validate   edit facts at one layer and score rewrite, rephrase, portability and locality
             -> report.html, validation.json, requests.parquet

options of both (all of them: lga fit --help, lga validate --help):
  --model.model_name NAME          smollm2-135m (embedded), a Hub id, or a local folder
  --model.layer LAYER              validate: a number, golden (what fit found), or the path of an attribution.json
  --data.requests SOURCE           a JSON, JSON Lines, CSV or Parquet file, or hub:owner/name; the bundled facts by default
  --data.format FORMAT             auto (default), jsonl, counterfact, zsre_mend_eval, knowedit, qaedit, ...
  --data.limit N                   use the first N requests; with --data.seed S, a random N
  --data.proxy_share SHARE         split by subject: this share for fit, the rest for validate
  --data.chat_template true        ask in the model's chat template
  --trainer.default_root_dir PATH  where results are left and looked for; the current folder by default
  --trainer.accelerator, --trainer.devices, ...   as in Lightning
  --config PATH                    a YAML file with any of these; --print_config writes one
  --ckpt_path PATH                 fit: go on where an interrupted run stopped (attribution.ckpt)

examples:
  lga fit --config configs/quickstart.yaml
  lga fit --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --trainer.default_root_dir runs/llama
  lga validate --model.model_name meta-llama/Llama-3.2-3B --model.dtype bfloat16 --trainer.default_root_dir runs/llama
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

    from lga_lightning.errors import LGAError

    try:
        from lga_lightning.cli import run

        run()
    except (LGAError, OSError) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes, one speaks
            sys.stderr.write(f"\nlga: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
