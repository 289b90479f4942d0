"""Command lines that cannot be used: one paragraph each, that names the option and what is near it."""

from __future__ import annotations

import pytest
import yaml

from lga_lightning.cli import help, run
from tests.helpers.cli import refused

pytestmark = pytest.mark.usefixtures("at_the_shell")

REFUSED = {
    "fitt": "'fitt' is no verb; did you mean fit? There are ",
    "--data.limit 3": "'--data.limit' is no verb.",
    "fit --limit 8": "`lga fit` has no option --limit; did you mean --data.limit? All options: lga fit --help.all.",
    "fit --data.limt 8": "has no option --data.limt; did you mean --data.limit?",
    "fit --data.lim 8": "did you mean --data.limit?",  # no half of a name for the whole
    "fit stray": "`lga fit` takes options alone, and 'stray' belongs to none.",
    "fit --data.limit": "--data.limit: expected one argument. What there is: lga fit --help.",
    "fit --model.editor ROMEE": "--model.editor: 'ROMEE' is none of EMMET, FTL, ",
    "fit --model.locator LGAA": "did you mean LGA?",
    "validate --model.guards+=NormGard": "--model.guards: 'NormGard' is none of NormGuard, SingularGuard; did you mean",
    "fit --model.editor.steps few": "--model.editor.steps: expected a whole number, got 'few'.",
    "fit --model.editor.stepz 3": "RROME has no setting 'stepz'; did you mean steps? It has ",
    "fit --model.editor.steps -1": "`steps` must be at least 2, got -1.",
    "fit --model.locator LGA --model.locator.kappa -2": "kappa",
    "fit --model.editor AlphaEdit --model.editor.second_moment identity": "AlphaEdit protects what the second moment",
    "fit --model.mode bach": "--model.mode: 'bach' is none of independent, batch, sequential; did you mean batch?",
    "fit --data.format csv": "--data.format: 'csv' is none of auto, ",
    "fit --config nowhere.yaml": "--config: File does not exist: ",
    "fit --seed_everything soon": "--seed_everything: expected true or false or a whole number, got 'soon'.",
    "fit --seed_everything=-5": "--seed_everything: -5 is not in bounds",
    "fit --trainer.devices 0": "The options of --trainer cannot be used: ",
    "fit --trainer.devices many": "The options of --trainer cannot be used: ",
    "fit --trainer.accelerator=cpu --trainer.min_steps=2": "Trainer(min_steps=2) waits for steps of an optimizer",
    "fit --trainer.accelerator=cpu --model.layer banana": "The layer 'banana' means nothing. Give a number, ",
    "fit --fact Rome": "A fact is prompt|subject|target, as in 'The capital of France is|France|Rome', got 'Rome'.",
    "fit --data.limit 8 --fact": "--fact has no fact behind it. Write one in a line, as in --fact 'The capital",
    "fit --fact=": "--fact has no fact behind it.",
    "fit --data.requests a.json --fact a|a|b": "Facts come from `requests` or from `facts`, not from both.",
    "fit --trainer.accelerator=cpu --data.requests ~nobodyhere/a.json": "There is no home folder for the path",
    "compare --compare.judge nobody": "--compare.judge: 'nobody' is none of sweep, candidates.",
    "moments --model.token 3": "`lga moments` has no option --model.token; did you mean --model.tokens?",
}


@pytest.mark.parametrize("line", REFUSED)
def test_one_paragraph(line, capsys, monkeypatch):
    def load(*args: object, **kwargs: object) -> None:
        pytest.fail("The model is loaded before the command line is refused.")

    monkeypatch.setattr("lga_lightning.modules.frozen.load_model", load)
    error = refused(line.split(" "), capsys)
    assert REFUSED[line] in error
    assert len(error.strip().splitlines()) == 1
    assert len(error) < 500


def test_an_unknown_verb_names_all_verbs(capsys):
    named = refused(["fitt"], capsys).partition("There are ")[2].partition(", each before")[0].split(", ")
    assert {*help.VERBS} <= {*named}


def test_options_win_over_files_wherever_they_stand(arguments, tmp_path, capsys):
    (tmp_path / "given.yaml").write_text("data: {limit: 3, batch_size: 5}\n")
    words = ["fit", "--data.limit=7", "--config", str(tmp_path / "given.yaml"), "--print_config"]
    with pytest.raises(SystemExit):
        run(words)
    shown = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (shown["limit"], shown["batch_size"]) == (7, 5)


def test_facts_on_the_command_line(capsys):
    facts = ["Q: who leads Rome? A:|Rome|x: y", "The capital of France is|France|Rome"]
    with pytest.raises(SystemExit):
        run(["validate", "--fact", facts[0], f"--fact={facts[1]}", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["facts"] == facts
