"""Figures and numbers that explain a result: one file per question.

A function that computes returns a frame; its counterpart ending in `_plot` draws that frame and returns a matplotlib
figure. Additional dependencies come with the extra `analysis` and are imported when used.
"""

from .alignment import alignment_distances, alignment_plot, pair_vectors
from .bleu import bleu_against, bleu_plot
from .case import CaseStudy, case_study
from .change import change_plot, per_query_change
from .cross_retriever import transfer
from .lengths import expansion_lengths, lengths_plot
from .nli import entailment
from .texts import gold_documents

__all__ = [
    "CaseStudy",
    "alignment_distances",
    "alignment_plot",
    "bleu_against",
    "bleu_plot",
    "case_study",
    "change_plot",
    "entailment",
    "expansion_lengths",
    "gold_documents",
    "lengths_plot",
    "pair_vectors",
    "per_query_change",
    "transfer",
]
