"""Kill each verb of the command line at random moments, run it again, and compare with what an undisturbed run leaves.

``python benchmarks/kills.py --model folder --kills 20`` prints a line a verb. With ``--devices 2`` what was killed as one process goes on
as two. Each run is a copy of this process, which has imported everything: so the kills fall into the work, and not into imports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from lga_lightning.cli import run

TIMES = {"seconds", "speed_up", "growth", "checksum", "versions"}  # no two runs take the same time
QUICK_EDITS = [
    "--model.editor.steps=3",
    "--model.editor.contexts_each=1",
    "--model.editor.context_lengths=[3]",
    "--model.editor.second_moment=identity",
]
EDITS = [*QUICK_EDITS, "--model.layer=1", "--edits.generate=false", "--edits.resamples=10", "--edits.general=false"]


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        verb: The verb.
        options: Its options.
        left: The file that it leaves, in the run's folder; a pattern.
        goes_on: What makes it go on from a folder in which it was killed, beside the same command.
    """

    verb: str
    options: Sequence[str]
    left: str
    goes_on: Callable[[Path], list[str]] = lambda folder: []

    def words(self, folder: Path, common: Sequence[str], again: bool = False) -> list[str]:
        """The command line.

        Args:
            folder: The run's folder.
            common: Options that all verbs have.
            again: Whether it is to go on.
        """
        more = self.goes_on(folder) if again else []
        return [self.verb, *common, *self.options, f"--trainer.default_root_dir={folder}", *more]

    def result(self, folder: Path) -> Any:
        """What can be compared of the file that is left; None where there is none."""
        found = sorted(folder.glob(self.left))
        if not found:
            return None
        return [
            _without_times(json.loads(path.read_text()))
            if path.suffix == ".json"
            else {name: tensor.double().flatten().tolist() for name, tensor in load_file(path).items()}
            for path in found
        ]


def _checkpoint(folder: Path) -> list[str]:
    path = folder / "attribution.ckpt"
    return [f"--ckpt_path={path}"] if path.is_file() else []


CASES = {
    "fit": Case("fit", ["--attribution.checkpoint_every=1", *QUICK_EDITS], "attribution.json", _checkpoint),
    "validate": Case("validate", [*EDITS, "--model.mode=sequential", "--edits.save_every=1"], "validation.json"),
    "predict": Case(
        "predict", [*EDITS, "--model.mode=independent", "--edits.overwrite=true"], "adapter/*/adapter_model.safetensors"
    ),
    "compare": Case(
        "compare",
        [
            "--model.only_known=false",
            "--data.proxy_share=0.5",
            "--compare.locators={LGA: LGA, Middle: MiddleLayer}",
            *QUICK_EDITS,
        ],
        "comparison.json",
    ),
    "moments": Case(
        "moments", ["--model.layers=1", "--model.tokens=3000", "--model.save_every=0"], "cache/**/1.safetensors"
    ),
}


def kill_and_go_on(
    case: Case,
    folder: Path,
    common: Sequence[str],
    start: Callable[[list[str]], int],
    after: float,
    again: Sequence[str],
) -> tuple[bool, Any]:
    """Start a command, kill it, and run it again.

    Args:
        case: The command.
        folder: The run's folder.
        common: Options of the first run.
        start: Starts a command line and returns the process's number.
        after: Seconds until it is killed.
        again: Options of the second run.

    Returns:
        Whether it was still running, and what is left in the end.
    """
    process = start(case.words(folder, common))
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    _, ended = os.waitpid(start(case.words(folder, again, again=True)), 0)
    if ended:
        raise RuntimeError(f"`lga {case.verb}` did not go on in {folder}.")
    return os.WIFSIGNALED(status), case.result(folder)


def alike(one: Any, other: Any, tolerance: float = 1e-6) -> bool:
    """Whether two results are the same, numbers to a relative tolerance.

    Args:
        one: A part of a result.
        other: The same part of another one.
        tolerance: Largest difference, relative to numbers above 1.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name], tolerance) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(one))
    return bool(one == other)


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_times(part) for name, part in content.items() if name not in TIMES}
    return [_without_times(part) for part in content] if isinstance(content, list) else content


def _forked(words: list[str], cache: Path) -> int:
    """Run a command in a copy of this process.

    Args:
        words: The command line.
        cache: The user's cache folder of that process.

    Returns:
        The process's number.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os.environ["XDG_CACHE_HOME"] = str(cache)
        sys.argv = ["lga"]
        run(words)
        code = 0
    os._exit(code)


def main() -> None:
    """Kill, go on, compare, and say how often all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", required=True, help="a local folder with a model, small and in no cache that is cleared"
    )
    parser.add_argument("--requests", help="a file of requests; the bundled facts by default")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1, help="processes of the run that goes on")
    parser.add_argument("--verbs", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    for name in given.verbs:
        case = CASES[name]
        common = [
            f"--model.model_name={given.model}",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
        ]
        if name != "moments":
            common += [
                "--data.limit=12",
                "--data.batch_size=2",
                *([f"--data.requests={given.requests}"] if given.requests else []),
            ]
        several = [f"--trainer.devices={given.devices}", "--trainer.strategy=ddp_fork"] if given.devices > 1 else []
        again = [*common, *several]
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch, "whole")
            begun = time.monotonic()
            os.waitpid(_forked(case.words(whole, common), whole / "cache"), 0)
            seconds, expected = time.monotonic() - begun, case.result(whole)
            killed = equal = 0
            for number in range(given.kills):
                folder = Path(scratch, str(number))
                start = partial(_forked, cache=folder / "cache")
                after = draw.uniform(0, seconds)
                was_running, found = kill_and_go_on(case, folder, common, start, after, again)
                killed += was_running
                equal += expected is not None and alike(found, expected)
        print(f"{name}: {given.kills} runs, {killed} killed before their end, {equal} end as the undisturbed one does")


if __name__ == "__main__":
    main()
