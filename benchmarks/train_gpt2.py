"""Train a small GPT-2 from scratch on synthetic facts, and watch its layer profile while it learns them.

    python benchmarks/train_gpt2.py --folder models/gpt2-facts                 # two CPU cores, about ten minutes
    python benchmarks/train_gpt2.py --folder models/gpt2-facts --size large    # a GPU

A Lightning training run with :class:`LayerAttribution` in it. It leaves in the folder:

- the model and its tokenizer, which ``--model.model_name FOLDER`` loads;
- ``facts.jsonl``: the facts as edit requests, for ``--data.requests``; the proxy and the test split share no subject;
- ``development.jsonl``: the proxy split again, as a data set of its own, to try things on without a look at the test split;
- ``profile/metrics.csv``: loss, and score by layer, as training goes on;
- ``known.json``: how many of the facts the trained model gives, greedily, by relation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from facts import Fact, corpus, make_facts, make_requests
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lga_lightning import LayerAttribution
from lga_lightning.models.generation import greedy_answers
from lga_lightning.utils.io import write_text

SIZES = {
    "small": {"people": 80, "towns": 30, "steps": 2400, "width": 160, "layers": 12, "heads": 4, "batch": 16},
    "large": {"people": 4000, "towns": 300, "steps": 12000, "width": 512, "layers": 16, "heads": 8, "batch": 128},
}
LENGTH = 64  # tokens a row
END = "<|endoftext|>"


class Corpus(IterableDataset):
    """Rows of ``LENGTH`` tokens that begin with a sentence: every fact once in each phrasing, again and again.

    The first rows are about a fifth of the subjects only. A model that sees all at once learns for long nothing but which
    answers occur; with few it soon learns to look an answer up, and can then take in the rest.

    Args:
        facts: The facts.
        tokenizer: Their tokenizer.
        easy: So many rows are about a fifth of the subjects.
        seed: Of the order.
    """

    def __init__(self, facts: list[Fact], tokenizer: PreTrainedTokenizerFast, easy: int, seed: int = 0) -> None:
        self.facts, self.tokenizer, self.easy = facts, tokenizer, easy
        self._rows = self._generate(random.Random(seed))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Token ids [LENGTH], row after row, without end; an epoch goes on where the last one ended."""
        return self._rows

    def _generate(self, rng: random.Random) -> Iterator[torch.Tensor]:
        few = set(list(dict.fromkeys(fact.subject for fact in self.facts))[::5])
        easy, made = [fact for fact in self.facts if fact.subject in few], 0
        while True:
            text = corpus(easy if made < self.easy else self.facts, rng)
            row: list[int] = []
            for sentence in text.replace(".", ".\0").split("\0"):
                row = row + self.tokenizer(sentence if row else sentence.lstrip())["input_ids"]
                if len(row) >= LENGTH:
                    yield torch.tensor(row[:LENGTH])
                    row, made = [], made + 1


class GPT2FromScratch(L.LightningModule):
    """A GPT-2 and how it is trained: AdamW, a linear warm-up, a cosine to zero."""

    def __init__(self, config: GPT2Config, steps: int, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.llm = GPT2LMHeadModel(config)
        self.steps = steps
        self.learning_rate = learning_rate

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Mean NLL of the next token."""
        loss: torch.Tensor = self.llm(input_ids=batch, labels=batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        """AdamW with a schedule by step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps, pct_start=0.05
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, unk_token=END)


def known_facts(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, facts: list[Fact]) -> dict[str, float]:
    """Share of the facts that the model gives greedily, by relation, over all phrasings."""
    right, asked = Counter[str](), Counter[str]()
    questions = [(fact, phrasing) for fact in facts for phrasing in range(4)]
    for start in range(0, len(questions), 128):
        batch = questions[start : start + 128]
        answers = greedy_answers(model, tokenizer, [fact.prompt(phrasing) for fact, phrasing in batch], 12)
        for (fact, _), answer in zip(batch, answers, strict=True):
            asked[fact.relation] += 1
            right[fact.relation] += answer == fact.answer
    return {"all": right.total() / asked.total()} | {kind: right[kind] / asked[kind] for kind in asked}


def as_lines(rows: list[dict]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Build the data, train, save, and check what the model knows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--profiles", type=int, default=8, help="how often the layers are scored on the way")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = SIZES[args.size] | ({"steps": args.steps} if args.steps else {})

    L.seed_everything(args.seed)
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    facts = make_facts(size["people"], size["towns"], args.seed)
    rows = make_requests(facts, args.seed)
    write_text(folder / "facts.jsonl", as_lines(rows))
    write_text(
        folder / "development.jsonl", as_lines([{**row, "split": None} for row in rows if row["split"] == "proxy"])
    )
    tokenizer = build_tokenizer(corpus(facts, random.Random(args.seed)), vocabulary=1024)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=size["width"],
        n_layer=size["layers"],
        n_head=size["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    module = GPT2FromScratch(config, size["steps"])
    profile = LayerAttribution(
        proxies=str(folder / "facts.jsonl"),
        model="llm",
        tokenizer=str(folder),
        limit=64,
        batch_size=16,
    )
    per_epoch = max(1, size["steps"] // args.profiles)
    trainer = L.Trainer(
        max_steps=size["steps"],
        limit_train_batches=per_epoch,
        default_root_dir=folder / "profile",
        callbacks=[profile],
        logger=CSVLogger(folder, name="profile", version=""),
        enable_checkpointing=False,
        log_every_n_steps=20,
        gradient_clip_val=1.0,
    )
    rows_of_text = Corpus(facts, tokenizer, easy=size["steps"] * size["batch"] // 6, seed=args.seed)
    try:
        trainer.fit(module, DataLoader(rows_of_text, batch_size=size["batch"]))
    finally:  # whatever becomes of the report on its layers
        module.llm.eval().save_pretrained(folder)
    known = known_facts(module.llm, tokenizer, facts)
    (folder / "known.json").write_text(json.dumps({"facts": len(facts), "known": known}, indent=1) + "\n")
    Console().print(f"{len(facts)} facts, each in four phrasings; known greedily: {known}")


if __name__ == "__main__":
    main()
