"""Small random checkpoints with the architecture and the files of the published encoders."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from pyterrier_expandr.encoding.models.library import Dense, LayerNorm, Normalize, Pooling, Transformer

TEXTS = ["why is the sky blue", "short waves of light are scattered by air"]
_PREFIXES = "query passage search_query search_document : Represent this sentence for searching relevant passages"
WORDS = list(dict.fromkeys(" ".join([*TEXTS, _PREFIXES]).replace("_", " _ ").split()))
INPUTS = ["input_ids", "attention_mask"]  # all that these architectures have in common
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}


def save_bert_tokenizer(folder: Path) -> int:
    """BERT's files with a vocabulary of whole words; the number of ids."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word.lower() for word in WORDS)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    BertTokenizer.from_pretrained(folder, model_max_length=512, model_input_names=INPUTS).save_pretrained(folder)
    return len(vocabulary)


def save_fast_tokenizer(folder: Path, specials: list[str], ending: str) -> int:
    """tokenizer.json of whole words, without the begin-of-sequence token where `ending` has none; the number of ids."""
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(name, vocabulary[name]) for name in specials if name in ending]
    core.post_processor = processors.TemplateProcessing(single=ending, special_tokens=used)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        model_input_names=INPUTS,
    )
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def _save(folder: Path, build: Callable[[], torch.nn.Module], seed: int = 0) -> str:
    torch.manual_seed(seed)
    build().save_pretrained(folder)
    return str(folder)


def build_bert(folder: Path, seed: int = 0) -> str:
    """BERT; Contriever, coCondenser, BGE-large and E5 are of this form."""
    size = save_bert_tokenizer(folder)
    return _save(folder, lambda: BertModel(BertConfig(vocab_size=size, **SIZES)), seed)


def build_distilbert(folder: Path) -> str:
    """TAS-B's form."""
    size = save_bert_tokenizer(folder)
    config = DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    return _save(folder, lambda: DistilBertModel(config))


def build_nomic(folder: Path) -> str:
    """Nomic-Embed's form: BERT's tokenizer, rotary positions, a gated network."""
    size = save_bert_tokenizer(folder)
    if not hasattr(transformers, "NomicBertModel"):
        pytest.skip(f"transformers {transformers.__version__} has no Nomic BERT")
    from transformers import NomicBertConfig, NomicBertModel

    return _save(folder, lambda: NomicBertModel(NomicBertConfig(vocab_size=size, **SIZES)))


def build_dpr(folder: Path, kind: type[DPRQuestionEncoder] | type[DPRContextEncoder], seed: int) -> str:
    """One of DPR's two encoders."""
    size = save_bert_tokenizer(folder)
    return _save(folder, lambda: kind(DPRConfig(vocab_size=size, **SIZES)), seed)


def build_roberta(folder: Path, *, multilingual: bool = False) -> str:
    """RoBERTa (ANCE) or XLM-RoBERTa (BGE-M3), whose positions start behind the pad id."""
    size = save_fast_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>")
    config = (XLMRobertaConfig if multilingual else RobertaConfig)(
        vocab_size=size, max_position_embeddings=8194 if multilingual else 514, type_vocab_size=1, **SIZES
    )
    return _save(folder, lambda: (XLMRobertaModel if multilingual else RobertaModel)(config))


def build_t5(folder: Path) -> str:
    """T5's encoder."""
    size = save_fast_tokenizer(folder, ["<pad>", "</s>", "<unk>"], "$A </s>")
    config = T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return _save(folder, lambda: T5EncoderModel(config))


def with_modules(bare: str, pooling: str, *after: torch.nn.Module) -> str:
    """The folder that sentence-transformers saves of a bare checkpoint, its pooling and what comes `after`."""
    saved = f"{bare}_modules"
    SentenceTransformer(modules=[Transformer(bare), Pooling(32, pooling), *after], device="cpu").save_pretrained(saved)
    return saved


def published_form(name: str, folder: Path) -> tuple[str, str, list[torch.nn.Module]]:
    """A random checkpoint of the named encoder: the folder to load, the bare model in it, and what follows pooling."""
    if name == "gtr":
        after: list[torch.nn.Module] = [Dense(32, 24, bias=False), Normalize()]
        bare = build_t5(folder)
        return with_modules(bare, "mean", *after), bare, after
    if name == "ance":
        after, bare = [Dense(32, 24), LayerNorm(24)], build_roberta(folder)
        return with_modules(bare, "cls", *after), bare, after
    if name in ("bge-m3", "bge-large"):
        bare = build_roberta(folder, multilingual=True) if name == "bge-m3" else build_bert(folder)
        return with_modules(bare, "cls", Normalize()), bare, [Normalize()]
    if name in ("e5", "nomic"):
        bare = build_nomic(folder) if name == "nomic" else build_bert(folder)
        return with_modules(bare, "mean", Normalize()), bare, [Normalize()]
    bare = build_distilbert(folder) if name == "tas-b" else build_bert(folder)
    return bare, bare, []
