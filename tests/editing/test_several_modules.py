"""Edits of several modules a block, of other modules than the out-projection, and of modules in no block."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from lga_lightning.editing.attaching import attached
from lga_lightning.editing.delta import WeightDelta
from lga_lightning.editing.updates import DenseUpdate, LowRankUpdate
from lga_lightning.exceptions import ModelError
from lga_lightning.models.architecture import named_site, scored_sites
from tests.editing.helpers import ids, name_at
from tests.helpers.models import tiny_model

# two modules of block 1 and one of block 3: out-projection, attention's output, up-projection
NAMES = {
    "llama": ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.3.mlp.up_proj"],
    "gpt2": ["transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj", "transformer.h.3.mlp.c_fc"],
    "opt": ["model.decoder.layers.1.fc2", "model.decoder.layers.1.self_attn.out_proj", "model.decoder.layers.3.fc1"],
}
FAMILIES = pytest.mark.parametrize("family_name", NAMES)
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def random_update(model, name: str, rank: int | None, seed: int, dtype=torch.float64) -> LowRankUpdate | DenseUpdate:
    """Of this rank, or dense."""
    site, generator = named_site(model, name), torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator, dtype=torch.float64) * 0.3).to(dtype)

    if rank is None:
        return DenseUpdate(draw(site.out_features, site.in_features))
    return LowRankUpdate(draw(site.out_features, rank), draw(rank, site.in_features))


def random_delta(model, ranks: dict[str, int | None], seed: int = 0, dtype=torch.float64) -> WeightDelta:
    return WeightDelta({name: random_update(model, name, rank, seed, dtype) for name, rank in ranks.items()})


def logits(model, rows: int = 3) -> torch.Tensor:
    return model(input_ids=ids(rows)).logits


@pytest.mark.usefixtures("exact")
@FAMILIES
@pytest.mark.parametrize("ranks", [(1, 2, 3), (1, None, 2), (None, None, None)])
def test_attached_is_merged(family_name, ranks):
    model = tiny_model(family_name, torch.float64)
    names = NAMES[family_name]
    plain = logits(model)
    delta = random_delta(model, dict(zip(names, ranks, strict=True)))
    with delta.attached(model):
        tried = logits(model)
    with delta.applied(model):
        merged = logits(model)
    torch.testing.assert_close(tried, merged, **EXACT)
    for name in names:  # every one of them matters
        with WeightDelta({n: update for n, update in delta.updates.items() if n != name}).applied(model):
            assert (logits(model) - merged).abs().max() > 1e-4
    assert torch.equal(logits(model), plain)
    assert {layer: [site.name for site in sites] for layer, sites in delta.by_block(model).items()} == {
        1: names[:2],
        3: names[2:],
    }


@pytest.mark.usefixtures("exact")
def test_every_matrix_of_a_block_can_be_edited(family):
    model = tiny_model(family, torch.float64)
    sites = [*scored_sites(model, "mlp")[1], *scored_sites(model, "attention")[1]]
    delta = random_delta(model, {site.name: 1 for site in sites})
    assert [site.module for site in delta.by_block(model)[1]] == [site.module for site in sites]
    with attached(model, [WeightDelta({}), delta], torch.tensor([1, 0, 1])):
        tried = logits(model)
    plain = logits(model)
    with delta.applied(model):
        torch.testing.assert_close(tried[::2], logits(model)[::2], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(tried[1], plain[1], **EXACT)


@pytest.mark.usefixtures("exact")
@FAMILIES
def test_every_row_has_an_edit_of_its_own(family_name):
    model = tiny_model(family_name, torch.float64)
    one, two, three = NAMES[family_name]
    deltas = [
        random_delta(model, {one: 1, two: 2}),
        random_delta(model, {two: 3, three: None}, seed=1),
        WeightDelta({}),
        random_delta(model, {three: 2, one: 4}, seed=2),
    ]
    rows = torch.tensor([2, 0, 1, 3, 1])
    with attached(model, deltas, rows):
        together = logits(model, 5)
    for row, which in enumerate(rows):
        with deltas[which].applied(model):
            torch.testing.assert_close(together[row], logits(model, 5)[row], **EXACT)


@pytest.mark.usefixtures("exact")
@FAMILIES
def test_dense_and_low_rank_add_up(family_name):
    model = tiny_model(family_name, torch.float64)
    one, two, three = NAMES[family_name]
    first, second = random_delta(model, {one: 1, two: 2}), random_delta(model, {two: None, three: 1}, seed=1)
    both = first + second
    assert list(both.updates) == [one, two, three]
    assert [type(update) for update in both.updates.values()] == [LowRankUpdate, DenseUpdate, LowRankUpdate]
    assert both.is_dense
    assert not first.is_dense
    with both.attached(model):
        joined = logits(model)
    with first.applied(model), second.applied(model):
        torch.testing.assert_close(logits(model), joined, **EXACT)


@FAMILIES
def test_peft_gives_the_logits_of_the_edited_model(family_name, tmp_path):
    model = tiny_model(family_name)
    one, two, three = NAMES[family_name]
    delta = random_delta(model, {three: 3, two: 2, one: 30}, dtype=torch.float32)  # 30 is more than full
    plain = logits(model)
    with delta.applied(model):
        edited = logits(model)
    assert (edited - plain).abs().max() > 1e-2
    delta.save_pretrained(tmp_path / "a", model)
    adapted = PeftModel.from_pretrained(tiny_model(family_name), tmp_path / "a")
    torch.testing.assert_close(logits(adapted), edited, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(adapted.unload()), plain, rtol=0, atol=0)
    again = WeightDelta.load(tmp_path / "a", model)
    assert list(again.updates) == [*sorted([one, two]), three]
    assert again.ranks == {one: 24, two: 2, three: 3}
    for name in delta.updates:
        torch.testing.assert_close(again.matrix(name), delta.matrix(name), rtol=1e-6, atol=1e-6)
    edited_in_note = json.loads((tmp_path / "a" / "lga.json").read_text())["edited"]
    assert {key: entry["module"] for key, entry in edited_in_note.items()} == {"1": one, two: two, three: three}


@FAMILIES
def test_dense_and_low_rank_are_saved_as_matrices(family_name, tmp_path):
    model = tiny_model(family_name)
    one, two, _ = NAMES[family_name]
    delta = random_delta(model, {one: 2, two: None}, dtype=torch.float32)
    delta.save_pretrained(tmp_path / "a", model)
    assert not (tmp_path / "a" / "adapter_config.json").exists()
    again = WeightDelta.load(tmp_path / "a", tiny_model(family_name))
    for name in (one, two):
        assert isinstance(again.updates[name], DenseUpdate)
        assert torch.equal(again.matrix(name), delta.matrix(name))


@pytest.mark.usefixtures("exact")
def test_a_module_in_no_block(tmp_path):
    model = tiny_model("llama", torch.float64)
    assert named_site(model, "lm_head").layer == -1
    delta = random_delta(model, {"lm_head": 2, name_at(model, 1): 1})
    assert list(delta.by_block(model)) == [-1, 1]
    with delta.attached(model):
        tried = logits(model)
    with delta.applied(model):
        torch.testing.assert_close(tried, logits(model), **EXACT)
    delta.save_pretrained(tmp_path / "a", model)
    assert WeightDelta.load(tmp_path / "a", model).ranks == {"lm_head": 2, name_at(model, 1): 1}


def test_a_weight_that_is_the_embeddings_too():
    model = tiny_model("gpt2")
    delta = WeightDelta({"lm_head": LowRankUpdate(torch.ones(320, 1), torch.ones(1, 24))})
    for way in (delta.merge_, delta.by_block, lambda model: delta.attached(model).__enter__()):
        with pytest.raises(ModelError, match=r"'lm_head' .* input embeddings too.*tie_word_embeddings"):
            way(model)


@FAMILIES
def test_a_failure_on_the_way_leaves_no_weight_changed(family_name):
    model = tiny_model(family_name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, two, three = NAMES[family_name]

    class NoRoom(LowRankUpdate):
        @property
        def matrix(self) -> torch.Tensor:
            changed = named_site(model, one).weight
            assert not torch.equal(changed, before_one)  # it comes after others have been edited
            raise torch.OutOfMemoryError("no room")

    before_one = named_site(model, one).weight.clone()
    delta = random_delta(model, {one: 1, two: None}, dtype=torch.float32)
    delta += WeightDelta({three: NoRoom(*random_update(model, three, 1, 0, torch.float32).factors)})
    with pytest.raises(torch.OutOfMemoryError):
        delta.merge_(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8)), name


def test_what_is_shown_is_names_ranks_and_shapes():
    model = tiny_model("llama")
    one, two, _ = NAMES["llama"]
    assert repr(random_delta(model, {one: 2, two: None})) == (
        f"WeightDelta({one}: LowRankUpdate(24 x 40, rank 2), {two}: DenseUpdate(24 x 24))"
    )
    assert repr(WeightDelta({})) == "WeightDelta()"
