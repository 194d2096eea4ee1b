"""Encoders that sentence-transformers cannot open by itself: AnchorDR, and the two towers of DPR.

In: a folder or hub name. Out: a `SentenceTransformer`. `catalogue` is the table of all encoders and LLMs with a short
name, where new ones are added. The outputs of AnchorDR are tested against fixtures of its reference implementation.
"""
