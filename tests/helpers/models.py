"""Tiny models with random weights, a tiny tokenizer, requests: nothing is downloaded."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lga_lightning.data.requests import EditRequest, Probe

VOCABULARY = 320

_LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

FAMILIES: dict[str, dict] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8},  # wider than hidden / heads, as in the real ones: o_proj is not square
    "mistral": _LLAMA,
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "phi3": {**_LLAMA, "pad_token_id": 0},
    "gpt2": {"n_embd": 24, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "gptj": {"n_embd": 24, "n_layer": 4, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "gpt_neox": {k: v for k, v in _LLAMA.items() if "key_value" not in k} | {"intermediate_size": 96},
    "opt": {
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 24,
    },
}


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model of a family, with norms and biases away from their initial ones and zeros."""
    config = CONFIG_MAPPING[family](
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **{**FAMILIES.get(family, {}), **overrides}
    )
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
