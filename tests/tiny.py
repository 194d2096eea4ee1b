"""Models small enough to be built in a test: random weights, but real architectures, tokenizers and templates."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

SENTENCES = [
    "Please write a passage to answer the question.",
    "Question: why is the sky blue\nPassage:",
    "Short waves of light are scattered by air more than long ones.",
]


def build_tiny_llama(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE, head_dim: int = 8) -> None:
    """A two-layer Llama with a byte-level BPE tokenizer that adds BOS by itself, as Llama 3's does."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    bos = SPECIAL[0]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, core.token_to_id(bos))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[2:4],
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def build_saying_llama(folder: Path, text: str, **options: int) -> None:
    """A tiny Llama that answers every chat with `text` and ends its turn, at any temperature.

    Its layers add nothing, so the next token depends on the last one alone: each token of the answer has a direction of
    the hidden space to itself, which the output layer turns into the token that follows.
    """
    build_tiny_llama(folder, **options)
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    last = tokenizer(prompt, add_special_tokens=False)["input_ids"][-1]
    chain = [last, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain) <= model.config.hidden_size, "the answer repeats a token or is too long"
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(0.01)
        model.lm_head.weight.zero_()
        for direction, (token, following) in enumerate(pairwise(chain)):
            model.model.embed_tokens.weight[token] = torch.eye(model.config.hidden_size)[direction]
            model.lm_head.weight[following, direction] = 20.0
    model.save_pretrained(folder)


def sampling_by_default(folder: str | Path) -> None:
    """Make the model's own settings sample from its whole distribution: a server takes what a request leaves open."""
    path = Path(folder) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "top_k": 0}))
