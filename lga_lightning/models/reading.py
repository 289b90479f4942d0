"""Whether a model reads texts from the left to the right, from position 0 on, as all that is asked of it supposes."""

from __future__ import annotations

from transformers import PreTrainedModel

from lga_lightning.exceptions import ModelError


def check_read_from_the_left(model: PreTrainedModel, block: str) -> None:
    """Refuse models whose tokens see what comes behind them, or stand elsewhere than they are said to.

    Args:
        model: A causal language model.
        block: The name of a block.

    Raises:
        ModelError: Says which it is, and why.
    """
    peft = getattr(model, "active_peft_config", None)
    if getattr(peft, "is_prompt_learning", False):
        raise ModelError(
            f"A {type(model).__name__} learns a prompt by PEFT ({type(peft).__name__}), which goes before every text, and moves it from where it "
            "is looked for. Take the model without it, or with an adapter of weights (LoRA)."
        )
    body, encoder, _ = block.rpartition(".encoder.")
    if not encoder:
        return
    if not getattr(model.config, "is_decoder", True):
        raise ModelError(
            f"A {type(model).__name__} is an encoder: its tokens see what comes behind them, so it gives no probabilities of a next token. Take a "
            "decoder-only model, or, of one that was trained as a decoder, set `is_decoder=True` in its config."
        )
    embeddings = getattr(model.get_submodule(body), "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        raise ModelError(
            f"A {type(model).__name__} counts positions from behind its padding token's number, where all others begin at 0, and would be read "
            "wrongly. Take a decoder-only model that counts from 0 (llama, qwen3, gpt2, ...)."
        )
