"""What ``lga`` says before it works, and when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lga_lightning import __main__ as entry
from lga_lightning.cli import help, run
from lga_lightning.cli.edits import LGACLI
from lga_lightning.exceptions import SettingError
from tests.helpers.cli import shell

pytestmark = pytest.mark.usefixtures("at_the_shell")


def said(capsys, *words: str) -> str:
    """What a command that ends at once prints."""
    sys.argv = ["lga", *words]
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == (0 if words else 2)
    return capsys.readouterr().out


def test_lga_alone_says_what_is_next(tmp_path, capsys):
    for left, verb in ((None, "fit"), ("attribution.json", "validate"), ("validation.json", "predict")):
        if left:
            (tmp_path / left).touch()
        assert f"\n  lga {verb} " in said(capsys)


@pytest.mark.parametrize("verb", help.VERBS)
def test_help_of_a_verb_is_short_and_true(verb, capsys):
    short = said(capsys, verb, "--help")
    assert len(short.splitlines()) < 60
    assert max(map(len, short.splitlines())) <= 100
    with pytest.raises(SystemExit):
        run([verb, "--help"])
    whole = capsys.readouterr().out
    ours = ("--fact", "--debug", "--help.all")  # not the parser's
    for option in (option for group in help.OPTIONS.values() for option in group if verb in option.verbs):
        name = option.name.split()[0].removesuffix("+=NAME")
        if name not in ours and not name.startswith("--model.editor."):
            assert (name if "governor" not in name else name.rpartition(".")[0]) in whole
            assert name in short


@pytest.mark.parametrize(
    ("words", "built"), [(["validate", "--help"], ["validate"]), (["--help"], ["fit", "validate", "predict"])]
)
def test_no_other_verb_gets_its_arguments(words, built, monkeypatch):
    add, found = LGACLI.add_arguments_to_parser, []

    def add_and_count(cli, parser):
        found.append(cli._preparing)
        add(cli, parser)

    monkeypatch.setattr(LGACLI, "add_arguments_to_parser", add_and_count)
    with pytest.raises(SystemExit):
        run(words)
    assert found == built


def test_help_loads_nothing_heavy():
    done = shell("fit", "--help", env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert not any(name in done.stderr for name in ("torch", "lightning.pytorch", "transformers"))


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys, tmp_path):
    script = said(capsys, "--print_completion", shell)
    if shell == "zsh":
        assert script.startswith("autoload -U +X bashcompinit && bashcompinit\n_lga()")
        return
    (tmp_path / "complete").write_text(script)

    def completed(*words: str) -> list[str]:
        words = ("lga", *words)
        line = f'source complete; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _lga; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()

    assert completed("mo") == ["moments"]
    assert completed("fit", "--verify") == ["--verify", "--verify.budget"]
    assert completed("moments", "--model.t") == ["--model.text", "--model.tokens"]


def test_says_what_is_replaced(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # lest a long path is broken
    monkeypatch.setattr(LGACLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(LGACLI, "_run_subcommand", lambda self, subcommand: None)
    for left, verb in (("attribution.json", "fit"), ("validation.json", "validate")):
        run([verb, f"--trainer.default_root_dir={tmp_path}"])
        assert "replaced" not in capsys.readouterr().out
        (tmp_path / left).touch()
        run([verb, f"--trainer.default_root_dir={tmp_path}"])
        said = " ".join(capsys.readouterr().out.split())
        assert f"{left}, of " in said
        assert "will be replaced. To keep them: --trainer.default_root_dir with another folder." in said


def test_bars_are_for_terminals(monkeypatch, capsys):
    made = []

    def make(self, config, callbacks):
        made.append((self, config))
        return SimpleNamespace(strategy=SimpleNamespace(launcher=None))

    monkeypatch.setattr(LGACLI, "_instantiate_trainer", make)
    monkeypatch.setattr(LGACLI, "_run_subcommand", lambda self, subcommand: None)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        run(["fit", "--trainer.accelerator=cpu"])
        cli, config = made[-1]
        assert config["enable_progress_bar"] is terminal
        bars = [type(callback).__name__ for callback in cli.trainer_defaults.get("callbacks", [])]
        assert bars == ["EndsAtOnce", *["TQDMProgressBar"] * terminal]


def test_a_terminal_of_another_encoding(tmp_path):
    code = "import sys; from lga_lightning import __main__ as m; m._start(); print('\u2713 \u2026 Zürich')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.stdout == b"? ? Z?rich\n"


def failing(monkeypatch, error: Exception) -> None:
    def fail(self: LGACLI) -> None:
        raise error

    monkeypatch.setattr(LGACLI, "before_instantiate_classes", fail)
    sys.argv = ["lga", "fit"]


@pytest.mark.parametrize("error", [KeyError("nothing here"), SettingError("Too low.")])
def test_a_traceback_for_those_who_ask(error, capsys, monkeypatch):
    monkeypatch.setenv("LGA_DEBUG", "")  # what --debug sets is taken back after the test
    failing(monkeypatch, error)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    usual = capsys.readouterr().err
    assert "Traceback" not in usual
    if isinstance(error, SettingError):
        assert (stop.value.code, usual) == (2, "\nlga: Too low.\n")
    else:
        assert stop.value.code == 1
        assert "an error that should not be: KeyError (lga_lightning/" in usual
        assert "'nothing here'" in usual
        assert "with --debug shows the traceback" in usual
    sys.argv = ["lga", "fit", "--debug"]
    with pytest.raises(SystemExit):
        entry.main()
    assert "Traceback" in capsys.readouterr().err
