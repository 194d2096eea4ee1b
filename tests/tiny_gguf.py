"""Tiny models as GGUF files, as llama.cpp writes them."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_gguf(folder: str, file: Path, *, arch: str = "llama", leave_out: tuple[str, ...] = (), **more) -> Path:
    """The tiny Llama of `folder` as a GGUF file in float32, as llama.cpp writes one."""
    import gguf

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    core = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokenizer, config = AutoTokenizer.from_pretrained(folder), model.config
    writer = gguf.GGUFWriter(str(file), arch)
    tokens, special = tokenizer.convert_ids_to_tokens(range(config.vocab_size)), set(tokenizer.all_special_tokens)
    fields = {
        "context": lambda: writer.add_context_length(config.max_position_embeddings),
        "sizes": lambda: (
            writer.add_embedding_length(config.hidden_size),
            writer.add_block_count(config.num_hidden_layers),
            writer.add_feed_forward_length(config.intermediate_size),
            writer.add_head_count(config.num_attention_heads),
            writer.add_head_count_kv(config.num_key_value_heads),
            writer.add_rope_freq_base(config.to_dict().get("rope_theta") or config.rope_parameters["rope_theta"]),
            writer.add_layer_norm_rms_eps(config.rms_norm_eps),
            writer.add_rope_dimension_count(config.head_dim),
            writer.add_vocab_size(config.vocab_size),
        ),
        "tokenizer": lambda: (
            writer.add_tokenizer_model(more.get("tokenizer", "gpt2")),
            writer.add_tokenizer_pre("gpt-2"),
            writer.add_token_list(tokens),
            writer.add_token_types([3 if token in special else 1 for token in tokens]),
            writer.add_token_merges(more.get("merges", [" ".join(pair) for pair in core["merges"]])),
        ),
        "bos": lambda: writer.add_bos_token_id(tokenizer.bos_token_id),
        "padding": lambda: writer.add_pad_token_id(tokenizer.pad_token_id),
        "end": lambda: writer.add_eos_token_id(more.get("end", tokenizer.eos_token_id)),
        "template": lambda: writer.add_chat_template(more.get("template", tokenizer.chat_template)),
    }
    for name, add in fields.items():
        if name not in leave_out:
            add()
    for name, value in more.get("extra", {}).items():
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name in leave_out:
            continue
        weights = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp keeps rotary halves interleaved
            n = heads[name[-len("q_proj.weight")]]
            weights = weights.reshape(n, 2, weights.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(weights.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weights)
    for name, weights in more.get("tensors", {}).items():
        writer.add_tensor(name, weights)
    _written(writer)
    return file


def write_moe(folder: str, file: Path) -> torch.nn.Module:
    """A random model with experts as a GGUF file, with the tokenizer of `folder`; and that model."""
    import gguf

    tokenizer, core = AutoTokenizer.from_pretrained(folder), json.loads((Path(folder) / "tokenizer.json").read_text())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_experts": 4, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(
        vocab_size=len(tokenizer), **sizes, num_attention_heads=4, num_key_value_heads=2, num_experts_per_tok=2,
        norm_topk_prob=True, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen3MoeForCausalLM(config).eval()
    writer = gguf.GGUFWriter(str(file), "qwen3moe")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(8)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(config.vocab_size)))
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 2)
    for name, tensor in model.state_dict().items():
        weights, block = tensor.numpy(), f"blk.{(name.split('.') * 2)[2]}"
        if name.endswith("gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(weights, 2, axis=1), strict=True):
                writer.add_tensor(f"{block}.ffn_{part}_exps.weight", np.ascontiguousarray(half))
        elif name.endswith("experts.down_proj"):
            writer.add_tensor(f"{block}.ffn_down_exps.weight", weights)
        else:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weights)
    _written(writer)
    return model


def _written(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
