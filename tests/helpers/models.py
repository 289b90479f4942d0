"""Tiny models with random weights, a tiny tokenizer, requests: nothing is downloaded."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lga_lightning.data.requests import EditRequest, Probe
from tests.helpers.families import VOCABULARY, config_of


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model of a family, with norms and biases away from their initial ones and zeros."""
    config = config_of(family, **overrides)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The capital of France is Paris", "Rome is in Italy, the mother tongue of"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def requests(count: int = 8) -> list[EditRequest]:
    """Requests of unequal lengths, the first few with probes of all kinds."""
    rows = [
        ("The capital of {} is", "France", "Rome", "Paris"),
        ("{} is in the country of", "Rome", "France", "Italy"),
        ("The mother tongue of {} is", "Danielle Darrieux", "English", "the French language"),
        ("{} was born in", "Einstein", "the United Kingdom", "Ulm"),
        ("What is the twin city of {}? It is", "Lyon", "Manila", "Beirut"),
        ("{} plays", "Mahatma", "the piano", "chess"),
        ("In Italy, people say that {} is the capital of", "Rome", "Japan", "Italy"),
        ("{}'s father is", "Zoë", "Ødegård", "Åse"),
    ]
    return [
        EditRequest(
            prompt=template.format(subject),
            subject=subject,
            target_new=new,
            target_old=old,
            rephrases=(f"It is said that {template.format(subject)}", f"{subject}: the answer is"),
            locality={
                "neighborhood": (Probe("The capital of Japan is", ("Tokyo", "Tōkyō")), Probe("Oslo is in", ("Norway",)))
            },
            portability={"reasoning": (Probe(f"People from {subject} live in", (new,)),)} if index % 2 else {},
            id=f"row {index}",
        )
        for index, (template, subject, new, old) in enumerate(rows[:count])
    ]
