"""LLM-expanded dense retrieval for PyTerrier.

Names are imported on first use, so that `import pyterrier_expandr` pulls in no torch, transformers, faiss or vllm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ExpandR": "system",
    "ExpandREncoder": "encoder",
    "FaissIndex": "index",
    "FaissRetriever": "retriever",
    "GenerationCache": "cache",
    "HuggingFaceBackend": "backends.huggingface",
    "LLMExpander": "expander",
    "OpenAIBackend": "backends.openai",
    "RecordedExpander": "expander",
    "VLLMBackend": "backends.vllm",
    "strip_preamble": "cleaning",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .encoding.encoder import ExpandREncoder as ExpandREncoder
    from .expansion.backends.huggingface import HuggingFaceBackend as HuggingFaceBackend
    from .expansion.backends.openai import OpenAIBackend as OpenAIBackend
    from .expansion.backends.vllm import VLLMBackend as VLLMBackend
    from .expansion.cache import GenerationCache as GenerationCache
    from .expansion.cleaning import strip_preamble as strip_preamble
    from .expansion.expander import LLMExpander as LLMExpander
    from .expansion.expander import RecordedExpander as RecordedExpander
    from .retrieval.faiss_index import FaissIndex as FaissIndex
    from .retrieval.faiss_retriever import FaissRetriever as FaissRetriever
    from .systems.expandr import ExpandR as ExpandR


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
