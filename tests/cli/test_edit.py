"""``lga edit``, in this process, on a tiny model; and once on the embedded one."""

from __future__ import annotations

import json
import sys

import pytest

from lga_lightning import __main__ as entry
from lga_lightning.cli import run
from lga_lightning.cli.edit import make_parser
from tests.helpers.cli import FAST_EDIT, refused
from tests.helpers.data import rows, write_rows

pytestmark = pytest.mark.usefixtures("at_the_shell")

FAST = [f"--{word.removeprefix('--model.')}" for word in FAST_EDIT]
FACT = "The capital of France is|France|Rome"


@pytest.fixture
def quick(model_folder) -> list[str]:
    """Options of a quick edit of a tiny model at a given layer."""
    return [f"--model={model_folder}", "--layer=1", "--device=cpu", *FAST]


def test_a_file_and_facts_on_the_command_line(quick, tmp_path, capsys):
    file = write_rows(tmp_path / "my_edits.jsonl", rows(2))
    more = ["--fact", FACT, "--prompt=Rome is in", "--subject=Rome", "--target=France", "--output=edited"]
    done = run(["edit", str(file), *quick, *more])
    assert [request.target_new for request in done.requests[2:]] == ["Rome", "France"]
    note = json.loads((tmp_path / "edited" / "lga.json").read_text())
    assert (note["data"], note["num_requests"], note["layers"]) == ("my_edits.jsonl", 4, [1])
    assert note["method"]["steps"] == 3
    assert (tmp_path / "edited" / "adapter_model.safetensors").is_file()
    assert "The adapter, with its card and report.html" in capsys.readouterr().out


def test_a_quantised_model(quick, tmp_path, capsys):
    pytest.importorskip("torchao")
    run(["edit", "--fact", FACT, *quick, "--quantization=int8"])
    note = json.loads((tmp_path / "adapter" / "lga.json").read_text())
    assert note["edited"]["1"]["packing"] == "Int8Tensor"
    assert "scored on quantised weights (Int8Tensor)" in (tmp_path / "adapter" / "README.md").read_text()
    error = refused(["edit", "--fact", FACT, *quick, "--quantization=int3"], capsys)
    assert "--quantization" in error
    assert "int8" in error


def test_the_layer_is_found_and_kept(quick, tmp_path, capsys):
    proxies = write_rows(tmp_path / "proxies.jsonl", rows(5))
    words = ["edit", "--fact", FACT, *quick, "--layer=auto", f"--proxies={proxies}", "--race=0", "--overwrite"]
    assert run(words).search.race is None
    assert "found now" in capsys.readouterr().out
    run(words)
    assert "found before" in capsys.readouterr().out


def test_a_gate_that_is_shut_ends_with_3(quick, tmp_path, capsys):
    sys.argv = ["lga", "edit", "--fact", FACT, *quick, "--editor.steps=2", "--require=efficacy>=1"]
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 3
    assert "lga: Nothing is written, since the edits are not what is required: efficacy is 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "There is no fact to edit. Name a file"),
        (["--prompt=France is"], "A fact needs --prompt and --target"),
        (["--fact=a|b"], "A fact is prompt|subject|target"),
        (["--fact", FACT, "--require=speed>=9"], "cannot be read"),
        (["--fact", FACT, "--device=nowhere"], "There is no device 'nowhere'"),
        (["--fact", FACT, "--device=mps"], "The device 'mps' has no float64"),
        (["--fact", FACT, "--race=soon"], "The budget of a race must be a number"),
        (["--fact", FACT, "--layers=3"], "--layers"),
        (["--fact", FACT, "--editor=ROMEE"], "did you mean ROME?"),
        (["--fact", FACT, "--batch-size=0"], "`batch_size` must be at least 1"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--fact", FACT, "--model.dtype", "bfloat16"], "`lga edit` has no option --model.dtype; here it is --dtype."),
        (["--fact", FACT, "--model.trust_remote_code=true"], "here it is --trust-remote-code."),
        (["--fact", FACT, "--data.chat_template", "true"], "here it is --chat-template."),
        (["--fact", FACT, "--model.editor.moment_tokens=9"], "here it is --editor.moment_tokens."),
        (["--fact", FACT, "--data.limit=9"], "`lga edit` has no option --data.limit. Its options"),
    ],
)
def test_what_is_refused(words, said, capsys):
    assert said in refused(["edit", *words], capsys)


def test_the_help_fits_a_screen():
    assert len(make_parser().format_help().splitlines()) < 60


@pytest.mark.embedded
def test_a_real_model(embedded_package, tmp_path):
    quick = ["--layer=3", "--editor.steps=15", "--editor.contexts_each=1", "--editor.context_lengths=[5]"]
    words = ["edit", "--fact", FACT, *quick, "--editor.second_moment=identity", "--require=efficacy>=1, locality>=0.5"]
    done = run(words)
    assert done.requests[0].locality["bundled"]
    assert (tmp_path / "adapter" / "report.html").is_file()
