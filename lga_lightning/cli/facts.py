"""``lga facts`` and ``lga remove``: which facts an adapter holds, and taking some of them out again."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from lga_lightning.cli.device import device_of
from lga_lightning.editing import WeightDelta
from lga_lightning.editing.adapter import CONFIG, FACTORS, MATRICES, NOTE, errors_in_json, read_note, resave_updates
from lga_lightning.editing.facts_file import FACTS, facts_to_json
from lga_lightning.exceptions import DataError, SettingError
from lga_lightning.models.architecture import named_site
from lga_lightning.models.loading import DTYPES, load_model
from lga_lightning.models.quantization import Quantization
from lga_lightning.reports.adapter_facts import print_facts_of, removal_card
from lga_lightning.reports.html import REPORT_FILE
from lga_lightning.reports.terminal import print_note
from lga_lightning.results.attribution import ATTRIBUTION_FILE
from lga_lightning.results.validation import REQUESTS_FILE, VALIDATION_FILE
from lga_lightning.utils.io import already_there, check_place, stays, user_path

CARD = "README.md"
WRITTEN = (NOTE, FACTORS, MATRICES, CONFIG, FACTS, CARD)  # anew, where they are
EVIDENCE = (VALIDATION_FILE, REQUESTS_FILE, ATTRIBUTION_FILE, REPORT_FILE)
BEFORE = "before"


def list_facts(words: Sequence[str]) -> None:
    """``lga facts ADAPTER``: print the facts of an adapter, with their ids.

    Args:
        words: What stands behind the verb.

    Raises:
        DataError: If there is no such adapter, or it knows no facts.
    """
    parser = ArgumentParser("lga facts", description="List the facts that an adapter holds, with their ids.")
    parser.add_argument("adapter", help="a folder that lga predict or delta.save_pretrained wrote")
    print_facts_of(_load(user_path(parser.parse_args(words).adapter)).facts)


def remove_facts(words: Sequence[str]) -> None:
    """``lga remove ADAPTER --fact ID``: take facts out of an adapter.

    Args:
        words: What stands behind the verb.

    Raises:
        DataError: If there is no such adapter or fact, or nothing would be left.
        SettingError: If others of its facts depend on these, and there is no ``--model`` to edit them again.
    """
    parser = ArgumentParser(
        "lga remove",
        formatter_class=RawDescriptionHelpFormatter,
        description="Take facts out of an adapter. What is left is the edit that would have been made without them: where no other\n"
        "fact depends on them their part is left out, and with --model those that do are edited again.",
    )
    parser.add_argument("adapter", help="a folder that lga predict or delta.save_pretrained wrote")
    parser.add_argument(
        "--fact", action="append", required=True, metavar="ID", help="a fact, as `lga facts` lists it; may be repeated"
    )
    parser.add_argument("--output", help="folder to write instead of changing the adapter")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it is there")
    parser.add_argument("--model", help="the unedited model, to edit again what depends on these facts")
    parser.add_argument(
        "--dtype", choices=["auto", *DTYPES], help="what to load it in; by default what the edit was made in"
    )
    parser.add_argument("--quantization", choices=get_args(Quantization), help="what to keep its linear maps in")
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")
    parser.add_argument("--device", default="auto", help="where to run it; auto takes a GPU where there is one")
    options = parser.parse_args(words)
    adapter = user_path(options.adapter).resolve()
    output = user_path(options.output).resolve() if options.output else adapter
    before = _load(adapter)
    if stays(output, options.overwrite or not options.output):
        raise already_there(output)
    check_place(output)
    before.facts.check_ids(options.fact)
    note = read_note(adapter)
    if not before.facts.entangled(options.fact):
        after, how = before.without(options.fact), "their part was left out, exactly"
    elif options.model is None:
        raise SettingError(
            f"These facts cannot just be left out: {before.facts.entangled(options.fact)}. Give the unedited model, and those "
            f"facts are edited again without them: --model {note['base_model']}"
        )
    else:
        after, how = _redone(before, options, note), "the facts that depended on them were edited again"
    removed = [entry for entry in facts_to_json(before.facts)["facts"] if entry["id"] in options.fact]
    note["removed"] = [
        *note.get("removed", []),
        *({"id": entry["id"], "request": entry["request"], "how": how} for entry in removed),
    ]

    def leave_more(scratch: Path) -> None:
        (scratch / CARD).write_text(removal_card(note, after.facts, after.ranks, after.is_dense), encoding="utf-8")
        if output == adapter:
            _carry_over(adapter, scratch)

    resave_updates(after.updates, adapter, output, note, after.facts, leave_more)
    print_note(f"{len(removed)} taken out, {len(after.facts)} left: {how}. {output}")
    aside = f", and stand in {BEFORE}/" if (output / BEFORE).is_dir() else ""
    print_note(f"Its scores are of the edit before that{aside}; `lga predict` scores edits anew.")


def _carry_over(adapter: Path, scratch: Path) -> None:
    """What else was in the folder: files that are not ours stay where they were, the evidence of the edit before goes into ``before/``."""
    for path in sorted(adapter.iterdir(), key=Path.is_file):  # folders first, so that the newest evidence is kept
        if path.name in WRITTEN:
            continue
        place = scratch / BEFORE / path.name if path.name in EVIDENCE else scratch / path.name
        place.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            shutil.copy2(path, place)


def _redone(before: WeightDelta, options: Any, note: dict[str, Any]) -> WeightDelta:
    from lga_lightning.editing.redo import redo_without

    device = device_of(options.device)
    model, tokenizer = load_model(
        options.model,
        options.dtype or note.get("dtype", "float32"),
        trust_remote_code=options.trust_remote_code,
        quantization=options.quantization,
    )
    WeightDelta.load(options.adapter, model)  # refuses another base model
    for entry in note["edited"].values():  # packed in another way, it may be the same model
        made, now = entry.get("packing"), named_site(model, entry["module"]).packing
        if made != now:
            raise SettingError(
                f"{entry['module']} was edited in {made or 'plain weights'}, and {options.model!r} has been loaded with {now or 'plain weights'} "
                "there, of which the edit would be another. Give --quantization as it was then, or leave it out if there was none."
            )
    after = redo_without(before, options.fact, model.to(device), tokenizer)
    rank = note.get("low_rank", note.get("method", {})).get("max_rank")
    if rank is not None:
        after, errors = after.low_rank(rank)
        note["low_rank"] = {"max_rank": rank, **errors_in_json(errors)}
    return after


def _load(folder: Path) -> WeightDelta:
    """An edit that knows its facts."""
    inside = sorted(path.parent.name for path in folder.glob("*/lga.json"))
    if inside and not (folder / "lga.json").is_file():
        raise DataError(
            f"{str(folder)!r} holds {len(inside)} adapters, each with facts of its own. Name one of them: {folder / inside[0]}"
        )
    delta = WeightDelta.load(folder)
    if not delta.facts:
        raise DataError(
            f"{str(folder)!r} has no {FACTS}: it was written by an earlier version, or from Python without facts. Write it anew."
        )
    return delta
