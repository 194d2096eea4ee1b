"""Turns texts and (query, document) pairs into training data for the small language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...expansion.backends.local.control_tokens import plain_control_tokens
from ...expansion.prompts import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: begin of text, end of turn, the two roles, padding
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

#: the label that the loss ignores, by PyTorch's convention
IGNORED = -100


def build_tokenizer(texts: Sequence[str], *, vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from `texts`, with the chat template and the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    bos, eos, user, assistant, pad = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[user, assistant],
        model_max_length=context,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text_blocks(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, size: int) -> list[dict[str, list[int]]]:
    """All texts concatenated, each after a begin token, cut into blocks of `size` tokens; the last may be shorter."""
    plain = [plain_control_tokens(text, list(SPECIAL_TOKENS)) for text in texts]
    encoded = tokenizer(plain, add_special_tokens=False)["input_ids"]
    stream = [token for ids in encoded for token in (tokenizer.bos_token_id, *ids)]
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    return [{"input_ids": block, "labels": block} for block in blocks]


def pair_row(
    tokenizer: PreTrainedTokenizerFast, template: str, query: str, document: str, passage_tokens: int
) -> dict[str, list[int]]:
    """Prompt, passage and end of turn as tokens; the loss covers the passage and the end of turn only.

    The passage is the document's first sentences, as many as fit into `passage_tokens`. If the prompt leaves no room
    for them, the query's text is cut at the end, never the prompt's own words.
    """
    special = list(SPECIAL_TOKENS)
    passage = _first_sentences(plain_control_tokens(document, special), tokenizer, passage_tokens)
    query_ids = tokenizer(plain_control_tokens(query, special), add_special_tokens=False)["input_ids"]
    while True:
        messages = render(template, query=tokenizer.decode(query_ids))
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        over = len(prompt) + len(passage) + 1 - tokenizer.model_max_length
        if over <= 0 or not query_ids:
            break
        query_ids = query_ids[: max(0, len(query_ids) - over)]
    target = [*passage, tokenizer.eos_token_id]
    return {"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + target}


def _first_sentences(text: str, tokenizer: PreTrainedTokenizerFast, limit: int) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) <= limit:
        return list(ids)
    kept = str(tokenizer.decode(ids[:limit]))
    end = kept.rfind(". ")
    # A first sentence that exceeds the limit is itself cut.
    return list(tokenizer(kept[: end + 1], add_special_tokens=False)["input_ids"][:limit] if end > 0 else ids[:limit])
