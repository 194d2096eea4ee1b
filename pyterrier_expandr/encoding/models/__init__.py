"""Encoders that sentence-transformers cannot open by itself: AnchorDR, and the two towers of DPR.

In: a folder or hub name. Out: a `SentenceTransformer`. `catalogue` is the table of all encoders and LLMs that have a
short name: the place for a new one. The numbers of AnchorDR are held by fixtures of its reference implementation.
"""
