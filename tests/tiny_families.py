"""One tiny model with random weights for each family of architectures that is named in docs/backends.md."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tests.tiny import build_tiny_llama

ATTENTION = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 2048,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 1}
DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 8,
}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}

#: families whose prompts are read once for all samples: keys and values are all that they keep
SHARING = {
    "llama": ATTENTION,
    "mistral": ATTENTION | {"sliding_window": 8},
    "qwen2": ATTENTION,
    "qwen3": ATTENTION | {"head_dim": 8},
    "gemma2": ATTENTION | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": ATTENTION | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "phi3": ATTENTION,
    "olmo2": ATTENTION,
    "smollm3": ATTENTION,
    "gpt_oss": ATTENTION | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "gpt_neox": {**ATTENTION, "rotary_pct": 0.5},
    "bloom": {"n_head": 4, "n_layer": 2},
}

#: families that keep another state
OTHER_STATE = {
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": {"state_size": 8},
    "rwkv": {"attention_hidden_size": 32, "intermediate_size": 32},
    "lfm2": ATTENTION | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "granitemoehybrid": ATTENTION
    | MAMBA
    | {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "qwen3_next": ATTENTION
    | DELTA
    | LINEAR
    | EXPERTS
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": ATTENTION | DELTA | LINEAR,
    "falcon_h1": ATTENTION | MAMBA | {"mamba_d_ssm": 64},
    "bamba": ATTENTION | MAMBA | {"attn_layer_indices": [1]},
    "jamba": ATTENTION
    | EXPERTS
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}
    | {"use_mamba_kernels": False},
    "recurrent_gemma": {
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "lru_width": 32,
        "attention_window_size": 8,
        "block_types": ["recurrent", "attention"],
    },
    "zamba2": ATTENTION
    | {
        "layers_block_type": ["mamba", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "chunk_size": 8,
        "num_mem_blocks": 1,
    },
    "nemotron_h": ATTENTION
    | {
        "layers_block_type": ["mamba", "attention"],
        "head_dim": 8,
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "olmo_hybrid": ATTENTION | DELTA | LINEAR,
    "minimax": ATTENTION | LINEAR | {"num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 8},
}


def build_tiny(family: str, folder: Path) -> None:
    """A model of a family, two layers of width 32, with the tokenizer and template of the tiny Llama."""
    if family not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    build_tiny_llama(folder)
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / file).unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = common | ids | (SHARING | OTHER_STATE)[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():  # what some families initialise to zero or one must not hide what the rest does
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
