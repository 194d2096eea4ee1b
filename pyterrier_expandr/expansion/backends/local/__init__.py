"""What the in-process backends need to know about a model before and while it writes.

In: a model's files, tokenizer and chat template. Out: what is refused (`checks`), the text of a prompt (`templates`,
`control_tokens`), whether a prompt can be read once for all its samples (`prefill`), and their tokens (`decoding`).
"""
