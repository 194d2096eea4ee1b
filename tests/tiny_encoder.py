"""A BERT small enough to be trained in a test: random weights, a real WordPiece tokenizer, pocket's words."""

from collections import Counter
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizerFast

from pyterrier_expandr.encoding.models.library import Normalize, Pooling, Transformer, size_of
from pyterrier_expandr.training.data.examples import open_examples

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def build_tiny_bert(folder: Path, *, dropout: float = 0.0, seed: int = 0) -> str:
    """A bare checkpoint, as BERT's is: it says nothing of pooling or normalisation."""
    texts = [text for example in open_examples("pocket", "train") for text in (example.query, *example.positives)]
    # The words themselves: a trained vocabulary breaks ties differently in each process.
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = Counter(word for text in texts for word, _ in split(text.lower()))
    common = sorted(words, key=lambda word: (-words[word], word))[:700]
    letters = sorted({letter for word in words for letter in word})
    vocabulary = list(dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common]))
    core = Tokenizer(models.WordPiece({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = BertTokenizerFast(tokenizer_object=core, model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def open_tiny(folder: str, *, normalize: bool = True) -> SentenceTransformer:
    transformer = Transformer(folder)
    modules = [transformer, Pooling(size_of(transformer), pooling_mode="mean")]
    return SentenceTransformer(modules=[*modules, Normalize()] if normalize else modules, device="cpu")


def features_of(batch: dict) -> list[dict]:
    """What the trainer makes of a batch."""
    return [
        {key[len(side) :]: value for key, value in batch.items() if key.startswith(side)}
        for side in ("query_", "text_")
    ]


def loss_of(loss: torch.nn.Module, batch: dict) -> torch.Tensor:
    return loss(features_of(batch), batch["label"])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def used(model: torch.nn.Module) -> set[str]:
    """The names of the weights that decide an embedding: mean pooling does not read BERT's pooler."""
    return {name for name, _ in model.named_parameters() if "pooler" not in name}
