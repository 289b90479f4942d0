"""Fine-tune a language model in a loop of your own; look at its layers in between, and edit facts at the end.

python examples/without_trainer.py --tiny     # a tiny random model, in seconds
python examples/without_trainer.py            # SmolLM2-135M
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

import torch
from parts import QUICK, language_model, options, rows
from torch.utils.data import DataLoader

from lga_lightning import edit, find_golden_layer, load_requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, look, edit, save the edit as an adapter."""
    asked = options(arguments, "Fine-tune in a loop of your own, look at the layers, edit facts at the end.")
    llm, tokenizer = language_model(asked.tiny)
    proxies = load_requests(split="proxy", limit=4 if asked.tiny else 24).requests
    facts = load_requests(split="test", limit=2).requests
    optimizer = torch.optim.AdamW(llm.parameters(), lr=1e-5)
    found, profiles = find_golden_layer(llm, tokenizer, proxies, editor=QUICK), []
    profiles.append(found.choice.scores)
    for epoch in range(2):
        for batch in DataLoader(rows(tokenizer), batch_size=2, shuffle=True):
            loss = llm(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        found = find_golden_layer(llm, tokenizer, proxies, editor=QUICK)  # the model stays as it is, in train mode too
        profiles.append(found.choice.scores)
        print(f"epoch {epoch}: loss {loss.item():.3f}, golden layer {found.golden_layer}")

    asked.folder.mkdir(parents=True, exist_ok=True)
    with (asked.folder / "profiles.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(profiles)
    delta = edit(llm, tokenizer, facts, layer=found, editor=QUICK)
    llm.save_pretrained(asked.folder / "trained")
    tokenizer.save_pretrained(asked.folder / "trained")
    delta.save_pretrained(asked.folder / "adapter", llm, base=str(asked.folder / "trained"), overwrite=True)
    print(f"The trained model and its edit: {asked.folder / 'trained'}, {asked.folder / 'adapter'}")


if __name__ == "__main__":
    main()
