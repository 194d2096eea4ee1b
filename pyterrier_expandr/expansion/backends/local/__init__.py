"""What the backends of this process know of a model before and while it writes.

In: a model's files, tokenizer and chat template. Out: what is refused (`checks`), the text of a prompt (`templates`,
`control_tokens`), and whether a prompt is read once for all its samples (`prefill`).
"""
