"""Decoder families of transformers, each as the settings of a tiny model."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

VOCABULARY = 320

_LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

FAMILIES: dict[str, dict[str, Any]] = {
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
"""The families that nearly every test of the package takes."""

_SIZES: dict[str, Any] = {
    **_LLAMA,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "sliding_window": 16,
    "ffn_dim": 40,
    "ffn_hidden_size": 40,
    "kv_channels": 8,
    "word_embed_proj_dim": 24,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "q_lora_rank": 12,
    "kv_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}

MORE_FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": {
        "mamba_n_heads": 4,
        "mamba_d_head": 12,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "attn_layer_indices": [1],
    },
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4, "n_ctx": 128},
    "cohere": {},
    "cohere2": {},
    "ctrl": {"dff": 40},
    "cwm": {},
    "diffllama": {},
    "doge": {},
    "ernie4_5": {},
    "exaone4": {},
    "falcon": {},
    "falcon_h1": {
        "mamba_n_heads": 4,
        "mamba_d_head": 12,
        "mamba_d_ssm": 48,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "gemma": {},
    "gemma2": {},
    "gemma3n_text": {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": None,
        "laurel_rank": 4,
    },
    "gemma4_text": {
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,  # as in the small ones: the last block has no keys and values of its own
    },
    "glm": {},
    "glm4": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_hidden_layers": 4},
    "gpt_neox_japanese": {},
    "granite": {},
    "granite_swa": {},
    "helium": {"head_dim": 6},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hyperclovax": {},
    "internlm3": {},
    "jais2": {},
    "lfm2": {},
    "lfm3": {},
    "llama4_text": {},
    "minicpm3": {"num_key_value_heads": 4},
    "ministral": {"head_dim": 8},
    "ministral3": {},
    "modernbert-decoder": {},
    "mpt": {},
    "nanochat": {},
    "nemotron": {"num_key_value_heads": 2},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": {},
    "openai-gpt": {},
    "persimmon": {"num_attention_heads": 2},
    "phi": {"num_attention_heads": 2},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "recurrent_gemma": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {},
    "youtu": {"num_key_value_heads": 4, "head_dim": 4},
    "mamba": {},
}
"""Families that only the tests of families take: what is set beside those of ``_SIZES`` that the family knows."""

_EAGER = {"experts_implementation": "eager"}  # the fused kernels know no float64

MORE_FAMILIES |= {
    "afmoe": _EAGER,
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 4, "qk_head_dim": 8, "first_k_dense_replace": 1, **_EAGER},
    "ernie4_5_moe": _EAGER,
    "glm4_moe": {"first_k_dense_replace": 1, **_EAGER},
    "gpt_oss": _EAGER,
    "granitemoe": _EAGER,
    "mixtral": _EAGER,
    "olmoe": _EAGER,
    "phimoe": _EAGER,
    "qwen2_moe": _EAGER,
    "qwen3_moe": _EAGER,
    "qwen3_next": {"num_hidden_layers": 4, **_EAGER},
}

ROUTED = ("gpt_oss", "granitemoe", "mixtral", "olmoe", "phimoe", "qwen3_moe")
"""Mixtures of experts without a shared one: routed experts are scored and edited."""


def config_of(family: str, **overrides: Any) -> PretrainedConfig:
    """The configuration of a tiny model of a family.

    Args:
        family: Its ``model_type``.
        overrides: Other settings.
    """
    kind = CONFIG_MAPPING[family]
    if (settings := FAMILIES.get(family)) is None:
        usual = kind().to_dict()
        usual |= {name: usual.get(stored) for name, stored in kind.attribute_map.items()}
        known = {name: size for name, size in _SIZES.items() if usual.get(name) is not None}
        settings = {"pad_token_id": 0, **known, **MORE_FAMILIES.get(family, {})}
    return kind(**{"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, **settings, **overrides})


_EYE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,  # as many as the text decoder has
    "depth": 3,
    "num_attention_heads": 2,
    "num_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 24,
}

COMPOSITES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {"model_type": "siglip_vision_model"}),
    "idefics3": ("llama", {"model_type": "idefics3_vision"}),
    "llava": ("llama", {"model_type": "clip_vision_model"}),
    "mistral3": ("mistral", {"model_type": "pixtral"}),
    "qwen3_vl": ("qwen3_vl_text", {}),
    "smolvlm": ("llama", {"model_type": "smolvlm_vision"}),
}
"""Models that also see: the family of the text decoder, and settings of what sees."""


def composite_config(family: str) -> PretrainedConfig:
    """The configuration of a tiny model that also sees.

    Args:
        family: Its ``model_type``.
    """
    text, eye = COMPOSITES[family]
    parts = {"text_config": config_of(text, num_hidden_layers=3).to_dict(), "vision_config": {**_EYE, **eye}}
    return CONFIG_MAPPING[family](**parts)
