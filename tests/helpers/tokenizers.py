"""Small tokenizers of the kinds that matter for offsets and spaces, trained on a few sentences."""

from __future__ import annotations

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lga_lightning.data.requests import end_of_subject
from lga_lightning.models.encoding import token_at

SENTENCES = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "The mother tongue of Danielle Darrieux is French.",
    "Zoë lives in Malmö; 東京 is the capital of 日本.",
    "the the the of of of is is is Paris Paris Rome Rome",
]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """As GPT-2's: every byte is a letter, a space is part of the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, special_tokens=[*SPECIAL.values()], initial_alphabet=alphabet)
    return tokenizer


def byte_level_words() -> Tokenizer:
    """As Llama 3's and Qwen's: a sign or a space goes with the word behind it, line breaks with what is before them."""
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, special_tokens=[*SPECIAL.values()], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer


def metaspace() -> Tokenizer:
    """As newer conversions of SentencePiece (Mistral's): a space is put before a text, but not behind a special token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    _train(trained, special_tokens=[*SPECIAL.values(), *BYTES])
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def sentencepiece(dummy_prefix: bool) -> Tokenizer:
    """As Llama 2's (with a space put before every text) or Gemma's (without); unknown characters become bytes."""
    to_block = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), to_block]) if dummy_prefix else to_block
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token spans words, as in the real ones
    _train(trained, special_tokens=[*SPECIAL.values(), *BYTES])
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer
    strip = [decoders.Strip(" ", 1, 0)] if dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "byte-level words": byte_level_words,
    "metaspace": metaspace,
    "dummy prefix": lambda: sentencepiece(dummy_prefix=True),
    "no prefix": lambda: sentencepiece(dummy_prefix=False),
}


def toy_tokenizer(kind: str, bos: bool = False, eos: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer of one of the ``KINDS`` that puts BOS before, or EOS behind, every text."""
    tokenizer = KINDS[kind]()
    if bos or eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{'<s> ' * bos}$A{' </s>' * eos}",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def _train(tokenizer: Tokenizer, **options: object) -> None:
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, **options)
    tokenizer.train_from_iterator(SENTENCES, trainer)


# a system prompt that speaks of subjects, too; an answer on a line of its own; with white space cut off
LINES = (
    "{{ bos_token }}System: Paris, Rome and Zoë are names.\n"
    "{% for m in messages %}{% if m['role'] == 'user' %}User: {{ m['content'] | trim }}\nAnswer:\n"
    "{% else %}{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
)


def subject_last_token(tokenizer: PreTrainedTokenizerBase, text: str, subject: str) -> int:
    """Index of the token that holds the subject's last character, the tokenizer's special tokens counted."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return token_at(offsets, end_of_subject(text, subject) - 1)
