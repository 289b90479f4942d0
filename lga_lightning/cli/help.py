"""Help that comes at once: what each verb's main options are, without the seconds that loading them all takes."""

from __future__ import annotations

from textwrap import fill
from typing import NamedTuple

MODELS = ("fit", "validate", "predict", "compare")
EDITS = ("validate", "predict")
VERBS = (*MODELS, "moments")


class Option(NamedTuple):
    """A main option.

    Attributes:
        name: The option, with what it takes.
        says: What it is for.
        verbs: The verbs that have it.
    """

    name: str
    says: str
    verbs: tuple[str, ...]


OPTIONS = {
    "model": (
        Option(
            "--model.model_name NAME",
            "smollm2-135m (embedded), gemma3-270m, a Hub id, a folder, or a .gguf file",
            VERBS,
        ),
        Option("--model.dtype DTYPE", "of the weights: float32 (default), bfloat16, float16, auto", VERBS),
        Option(
            "--model.quantization NAME", "what linear maps are kept in: int8, int4 (torchao), nf4 (bitsandbytes)", VERBS
        ),
        Option(
            "--model.layer LAYER", "golden (what fit found), atlas, 5, 4-8, all, default, or an attribution.json", EDITS
        ),
        Option("--model.layers LAYERS", "of which blocks: 5, 4-8, [3, 5], all, golden", ("moments",)),
        Option(
            "--model.locator NAME",
            "how layers are scored: EditForecast (default), LGA, ValueGradient, CausalTracing, LayerSweep, MiddleLayer, "
            "FixedLayer; its settings: --model.locator.SETTING",
            ("fit",),
        ),
        Option(
            "--model.editor NAME",
            "how facts are edited: RROME (default), ROME, MEMIT, EMMET, AlphaEdit, PMET, FTL, FTM, UltraEdit, LocFT, CrispEdit; "
            "its settings: --model.editor.SETTING",
            MODELS,
        ),
        Option(
            "--model.editor.second_moment C",
            "bundled (default), identity (at once, but harms more), sampled, a file of text, or a folder of `lga moments`",
            MODELS,
        ),
        Option("--model.mode MODE", "independent (each alone; validate), batch (together; predict), sequential", EDITS),
        Option("--model.guards+=NAME", "what edits must spare: NormGuard, SingularGuard", EDITS),
        Option(
            "--model.governor.locality SHARE",
            "sequential: stop at a limit; also .perplexity_ratio, .relative_norm, .every",
            EDITS,
        ),
        Option("--model.only_known true", "use only facts that the model answers right", ("fit",)),
        Option(
            "--model.text SOURCE", "text to read: bundled (default), sampled, a file, or hub:owner/name", ("moments",)
        ),
        Option("--model.tokens N", "how many tokens to read", ("moments",)),
    ),
    "facts": (
        Option(
            "--data.requests SOURCE",
            "a JSON, CSV or Parquet file, or hub:owner/name; the bundled facts by default",
            MODELS,
        ),
        Option("--fact 'PROMPT|SUBJECT|TARGET'", "a fact on the command line; may be given again", MODELS),
        Option("--data.format FORMAT", "auto (default), jsonl, counterfact, zsre_mend_eval, knowedit, ...", MODELS),
        Option("--data.limit N", "use the first N requests; with --data.seed S a random N", MODELS),
        Option("--data.proxy_share SHARE", "this share of the subjects for fit, the others for the edits", MODELS),
        Option("--data.chat_template true", "ask in the model's chat template", MODELS),
    ),
    "what is looked at": (
        Option("--verify", "let a race of real edits look over the scores", ("fit",)),
        Option("--verify.budget N", "its edits, 200, or its time, '5 min'", ("fit",)),
        Option("--attribution.stop_at_confidence SHARE", "end when the choice is that sure", ("fit",)),
        Option("--edits.generate false", "skip what the model says by itself: faster", EDITS),
        Option("--edits.protocol wild", "ask as users ask, and let the model speak to its own end", EDITS),
        Option("--edits.judge MODEL", "a language model that judges answers, or a server's address", EDITS),
        Option("--edits.general true", "what edits leave of the model's general ability", EDITS),
        Option("--compare.locators {NAME: LOCATOR, ...}", "what is compared", ("compare",)),
        Option("--compare.tests N", "requests that judge, each edited at every layer", ("compare",)),
        Option(
            "--compare.judge JUDGE",
            "sweep (every layer) or candidates; by default by what the edits would cost",
            ("compare",),
        ),
    ),
    "what is written": (
        Option("--trainer.default_root_dir PATH", "folder of the results; the current one by default", VERBS),
        Option("--edits.output FOLDER", "the adapter's folder; --edits.overwrite true replaces it", ("predict",)),
        Option("--edits.max_rank N", "a lower rank for the adapter, by SVD", ("predict",)),
        Option("--merge", "the edited model in merged/, and no adapter", ("predict",)),
        Option("--ckpt_path PATH", "go on where an interrupted run stopped (attribution.ckpt)", ("fit",)),
    ),
    "in general": (
        Option("--trainer.accelerator NAME", "cpu, gpu, ...; with --trainer.devices N, as in Lightning", VERBS),
        Option("--config PATH", "a YAML file with any of these; options win over it", VERBS),
        Option("--print_config", "write all settings as YAML, and end", VERBS),
        Option("--debug", "show tracebacks of errors", VERBS),
        Option("--help.all", "all options, also the Trainer's (takes seconds)", VERBS),
    ),
}
"""Main options, by what they are about."""


def verb_help(verb: str, about: str) -> str:
    """The help of a verb: what it does, and its main options.

    Args:
        verb: The verb.
        about: What it does and leaves behind, in lines.
    """
    parts = [f"usage: lga {verb} [options]\n\n{about}"]
    for title, options in OPTIONS.items():
        lines = [_line(option) for option in options if verb in option.verbs]
        if lines:
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts) + "\n"


def _line(option: Option) -> str:
    first = f"  {option.name:<34}"
    gap = "" if len(option.name) < 33 else f"\n{'':36}"
    return fill(option.says, 100, initial_indent=f"{'':36}", subsequent_indent=f"{'':36}").replace(
        f"{'':36}", f"{first}{gap}", 1
    )


def completion(shell: str, verbs: tuple[str, ...]) -> str:
    """A script that completes verbs and main options on the command line.

    Args:
        shell: ``bash`` or ``zsh``.
        verbs: The verbs.
    """
    cases = []
    for verb in VERBS:
        names = [option.name.split()[0] for group in OPTIONS.values() for option in group if verb in option.verbs]
        cases.append(f'    {verb}) words="{" ".join(names)} --help" ;;')
    lines = [
        *(["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []),
        "_lga() {",
        '  local words=""',
        f'  [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(verbs)} --help --version"',
        '  [ "$COMP_CWORD" -gt 1 ] && case "${COMP_WORDS[1]}" in',
        *cases,
        "  esac",
        '  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))',
        "}",
        "complete -o default -F _lga lga",
    ]
    return "\n".join(lines) + "\n"
