"""LLM-expanded dense retrieval for PyTerrier.

Data flows through the rooms from the bottom of this list to its top, and each imports only those below it:

    cli            the command `expandr`, and its demo
    training       trains both models (the folder `training/` of the repository)
    systems        expander, encoder and index as one artefact
    reports        tables and pages of an experiment;  analysis: its questions and pictures
    evaluation     experiments by the BEIR protocol
    retrieval      indexes and the search in them
    encoding       texts -> vectors, and their fusion
    expansion      queries -> passages, by an LLM or from a file
    collections    queries, documents, judgments
    common         what every room may use

Names are imported on first use, so that `import pyterrier_expandr` pulls in no torch, transformers, faiss or vllm.
"""

from typing import TYPE_CHECKING

from . import _moved
from .common.lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "ExpandR": "systems.expandr",
    "ExpandREncoder": "encoding.encoder",
    "FaissIndex": "retrieval.faiss_index",
    "FaissRetriever": "retrieval.faiss_retriever",
    "GenerationCache": "expansion.cache",
    "HuggingFaceBackend": "expansion.backends.huggingface",
    "LLMExpander": "expansion.expander",
    "OpenAIBackend": "expansion.backends.openai",
    "RecordedExpander": "expansion.expander",
    "VLLMBackend": "expansion.backends.vllm",
    "beir": "evaluation.beir",
    "clean_passage": "expansion.cleaning.passage",
    "load_encoder": "encoding.registry",
    "open_backend": "expansion.backends.opening",
    "strip_preamble": "expansion.cleaning.preambles",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .encoding.encoder import ExpandREncoder as ExpandREncoder
    from .encoding.registry import load_encoder as load_encoder
    from .evaluation import beir as beir
    from .expansion.backends.huggingface import HuggingFaceBackend as HuggingFaceBackend
    from .expansion.backends.openai import OpenAIBackend as OpenAIBackend
    from .expansion.backends.opening import open_backend as open_backend
    from .expansion.backends.vllm import VLLMBackend as VLLMBackend
    from .expansion.cache import GenerationCache as GenerationCache
    from .expansion.cleaning.passage import clean_passage as clean_passage
    from .expansion.cleaning.preambles import strip_preamble as strip_preamble
    from .expansion.expander import LLMExpander as LLMExpander
    from .expansion.expander import RecordedExpander as RecordedExpander
    from .retrieval.faiss_index import FaissIndex as FaissIndex
    from .retrieval.faiss_retriever import FaissRetriever as FaissRetriever
    from .systems.expandr import ExpandR as ExpandR

_moved.install()
__getattr__, __dir__ = lazy_names(__name__, _HOME)
