"""Guards from the command line and under a Trainer, in every mode."""

from __future__ import annotations

import json

import pytest
import torch

from lga_lightning.cli import run
from lga_lightning.editing import Guarded, NormGuard, SingularGuard, WeightDelta
from lga_lightning.editing.session import EditSession
from lga_lightning.models.architecture import edit_site
from tests.helpers.cli import FAST_EDIT, refused

EDITED = "model.layers.1.mlp.down_proj"
GUARDS = "--model.guards=[{class_path: SingularGuard, init_args: {energy: 0.3}}, {class_path: NormGuard, init_args: {limit: 0.02}}]"


@pytest.mark.parametrize("mode", ["independent", "batch", "sequential"])
@pytest.mark.usefixtures("at_the_shell")
def test_every_mode_edits_guarded(mode, arguments, tmp_path):
    words = [*arguments, *FAST_EDIT, "--model.layer=1", GUARDS, f"--model.mode={mode}", "--edits.generate=false"]
    made = run(["predict", *words, f"--trainer.default_root_dir={tmp_path / 'run'}"])
    model, tokenizer = made.model.language_model
    asked = made.datamodule.loaded.requests
    method = made.model.editor.method
    guarded = Guarded(method, [SingularGuard(0.3), NormGuard(0.02)])
    root = tmp_path / "run" / "adapter"
    if mode == "independent":
        found = [WeightDelta.load(folder, model) for folder in sorted(root.iterdir())]
        expected = guarded.compute_each(model, tokenizer, asked, 1)
        root = next(root.iterdir())
    else:
        session = EditSession(guarded, model, tokenizer, 1)
        for start in range(0, 13, 13 if mode == "batch" else 2):
            session.edit(asked[start : start + (13 if mode == "batch" else 2)])
        found, expected = [WeightDelta.load(root, model)], [session.delta]
    weight = edit_site(model, 1).weight
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.matrix(EDITED), other.matrix(EDITED), rtol=1e-3, atol=1e-4)
        assert one.matrix(EDITED).norm() <= 0.02 * weight.norm() * (1 + 1e-4)
    note = json.loads((root / "lga.json").read_text())["method"]
    assert note["name"] == "R-ROME with SingularGuard and NormGuard"
    assert note["guards"] == [guard.settings() for guard in guarded.guards]
    assert "NormGuard" in (root / "README.md").read_text()


@pytest.mark.usefixtures("at_the_shell")
def test_guards_one_by_one_on_the_command_line(arguments, tmp_path, capsys):
    words = [*arguments, *FAST_EDIT, "--model.layer=1", "--data.limit=2", "--edits.generate=false"]
    made = run(["validate", *words, "--model.guards+=NormGuard", "--model.guards.limit=0.03"])
    assert [guard.settings() for guard in made.model.editor.guards] == [{"name": "NormGuard", "limit": 0.03}]
    assert "'limit': 0.03" in (tmp_path / "report.html").read_text().replace("&#39;", "'")
    assert "R-ROME with NormGuard" in " ".join(capsys.readouterr().out.split())
    said = refused(["validate", *words, "--model.guards+=NormGuard", "--model.guards.limit=0"], capsys)
    assert "`limit` of NormGuard" in said
