"""The contrastive loss of ExpandR (Eq. 6-9): InfoNCE with fused embeddings as anchors, with gradient caching."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.distributed import all_gather_with_grad, get_rank, get_world_size
from torch import Tensor, nn

from ...common.extras import needed_for
from ...encoding.fusion import Fusion, check_fusion, fuse
from ...encoding.models.sentence_transformer import normalizes

with needed_for("training a retriever", "train"):  # sentence-transformers has it since 6.0; the rest takes 5.0
    from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input

Similarity = Literal["dot", "cosine"]


@dataclass(frozen=True)
class Profile:
    """A named set of training settings; the similarity is always the dot product.

    Attributes:
        pooling: how tokens are pooled; None keeps the model's own.
        normalize: L2-normalise every embedding before the fusion.
        temperature: divisor of the similarities.
        batch_size: queries per batch; with one hard negative each, there are twice as many passages.
    """

    pooling: str | None
    normalize: bool
    temperature: float
    batch_size: int


#: "paper" follows the paper's text; the others are what its reference implementation does for the two base models
PROFILES = {
    "paper": Profile(pooling=None, normalize=True, temperature=0.02, batch_size=1024),
    "reference-contriever": Profile(pooling="mean", normalize=True, temperature=0.02, batch_size=64),
    "reference-anchordr": Profile(pooling="first decoder position", normalize=False, temperature=1.0, batch_size=64),
}


def info_nce(
    anchors: Tensor,
    documents: Tensor,
    own: Tensor,
    *,
    false_negatives: Tensor | None = None,
    similarity: Similarity = "dot",
    temperature: float = 0.02,
) -> Tensor:
    """The mean over rows of `-log softmax(sim(anchor, documents) / temperature)[own]` (Eq. 9), a scalar.

    Args:
        anchors: (n, d).
        documents: (m, d), the positives and negatives of all rows.
        own: (n,), the column of each row's positive.
        false_negatives: (n, m), True where a document is left out of the row's denominator.
        similarity: "dot", or "cosine", which normalises both sides.
        temperature: divisor of the similarities.

    Example:
        >>> loss = info_nce(torch.eye(2), torch.eye(2), torch.arange(2), temperature=1.0)
        >>> round(loss.item(), 4)
        0.3133
    """
    if similarity == "cosine":
        anchors, documents = F.normalize(anchors, dim=-1), F.normalize(documents, dim=-1)
    scores = anchors @ documents.T / temperature  # (n, m)
    if false_negatives is not None:
        scores = scores.masked_fill(false_negatives, -torch.inf)
    return F.cross_entropy(scores, own)


def find_false_negatives(document_keys: Tensor, relevant_keys: Tensor, own: Tensor) -> Tensor:
    """True (n, m) where a document other than a row's own positive is known to be relevant to its query.

    Args:
        document_keys: (m, 2), hashes of each document's id and of its text.
        relevant_keys: (n, r), hashes of ids and texts that are relevant to each row's query.
        own: (n,), the column of each row's positive.

    Example:
        >>> keys = torch.tensor([[1, 10], [2, 20], [3, 10]])
        >>> find_false_negatives(keys, torch.tensor([[1, 10]]), torch.tensor([0]))
        tensor([[False, False,  True]])
    """
    found = torch.zeros(len(relevant_keys), len(document_keys), dtype=torch.bool, device=document_keys.device)
    for column in relevant_keys.unbind(1):  # one at a time, since a query may have hundreds
        found |= (document_keys == column[:, None, None]).any(-1)
    found[torch.arange(len(own)), own] = False
    return found


def fuse_rows(queries: Tensor, expansions: Tensor, counts: Tensor, fusion: Fusion) -> Tensor:
    """The anchors (n, d): each query fused with its own expansions (Eq. 8), or alone if it has none.

    Args:
        queries: (n, d).
        expansions: (sum of counts, d), grouped by query in the same order.
        counts: (n,), how many expansions each query has.
        fusion: see `pyterrier_expandr.encoding.fusion.fuse`, which this calls.

    Example:
        >>> fuse_rows(torch.eye(2), torch.tensor([[0.0, 1.0]]), torch.tensor([1, 0]), "average")
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    first = counts.cumsum(0) - counts
    parts, order = [], []
    for count in counts.unique().tolist():  # rows with equally many expansions are fused together
        rows = (counts == count).nonzero().flatten()
        own = expansions[first[rows, None] + torch.arange(count, device=rows.device)]  # (rows, count, d)
        parts.append(fuse(queries[rows], own, fusion) if count else queries[rows])
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]


def gather_ragged(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensors (n_i, ...) of all processes, concatenated, and the row at which this process's own begin.

    Gradients flow back to the process that a row came from.
    """
    sizes = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    longest = int(max(sizes))
    padded = torch.cat([tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    gathered = all_gather_with_grad(padded).unflatten(0, (len(sizes), longest))
    rows = torch.cat([part[: int(size)] for part, size in zip(gathered, sizes, strict=True)])
    return rows, int(sum(sizes[: get_rank()]))


class ExpandRLoss(CachedLossMixin, nn.Module):
    """InfoNCE between fused query embeddings and documents, over all positives and hard negatives of the batch.

    Takes the batches of `FusedBatchCollator`. The fusion is the one used in retrieval (`encoding.fusion`).
    Embeddings are computed one mini-batch at a time and again with gradients (gradient caching), so a batch of 1,024
    needs only the memory of a mini-batch, while loss and gradients are those of the whole batch. Gradient accumulation
    over small batches is a different loss, since each query is then compared only with its small batch's documents.

    Args:
        model: the encoder, for queries and documents alike.
        fusion: how a query and its expansions become the anchor; see `fuse`.
        similarity: "dot" or "cosine".
        temperature: divisor of the similarities.
        normalize: L2-normalise every embedding before the fusion.
        renormalize: L2-normalise the anchor after the fusion.
        mini_batch_size: texts embedded at a time; None embeds the whole batch at once, without caching.
        gather_across_devices: compare with the documents of all processes, which must have equal numbers of queries.

    Raises:
        ValueError: a value out of range, or a model that normalises although `normalize` is False.

    Example:
        >>> loss = ExpandRLoss.of_profile(model, "paper", mini_batch_size=64)  # doctest: +SKIP
    """

    mini_batch_size: int  # never None when it is read: see `forward`

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        fusion: Fusion = "average",
        similarity: Similarity = "dot",
        temperature: float = 0.02,
        normalize: bool = True,
        renormalize: bool = False,
        mini_batch_size: int | None = 32,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        if similarity not in ("dot", "cosine"):
            raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if mini_batch_size is not None and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be 1 or more, or None for no caching, got {mini_batch_size}")
        if not normalize and normalizes(model):
            raise ValueError(
                "the model's last module normalises embeddings, which normalize=False cannot undo: "
                "remove that module, or set normalize=True"
            )
        if mini_batch_size is not None and has_static_embedding_input(model):
            raise ValueError("a model of static embeddings cannot be cached in mini-batches: set mini_batch_size=None")
        self.model = model
        self.fusion = check_fusion(fusion)
        self.similarity: Similarity = similarity
        self.temperature, self.normalize, self.renormalize = temperature, normalize, renormalize
        self.uses_gradient_cache = mini_batch_size is not None
        self.mini_batch_size = mini_batch_size or 0
        self.gather_across_devices = gather_across_devices

    @classmethod
    def of_profile(cls, model: SentenceTransformer, profile: str = "paper", **options: Any) -> ExpandRLoss:
        """The loss of a named profile (`PROFILES`); `options` go to the constructor. Raises ValueError if unknown."""
        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r} is unknown: use one of {tuple(PROFILES)}")
        named = PROFILES[profile]
        return cls(model, **{"temperature": named.temperature, "normalize": named.normalize, **options})

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any) -> Tensor:
        """The loss, a scalar.

        Args:
            sentence_features: features of the queries, and of all texts of the document side.
            labels: the layout of the texts, see `FusedBatchCollator`.
        """
        features = list(sentence_features)
        if self.uses_gradient_cache:
            return self.forward_cached(features, labels)
        return self.calculate_loss([[self.model(feature)["sentence_embedding"]] for feature in features], labels)

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """The loss of embeddings that are still in mini-batches; called by the gradient caching."""
        with torch.autocast(reps[0][0].device.type, enabled=False):  # half precision is too coarse to divide by 0.02
            loss = self.loss_from_embeddings(torch.cat(reps[0]), torch.cat(reps[1]), labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def loss_from_embeddings(self, queries: Tensor, texts: Tensor, layout: dict[str, Tensor]) -> Tensor:
        """The loss of a batch of embeddings.

        Args:
            queries: (n, d), in the order in which they were embedded.
            texts: (n + k + e, d), n positives, k negatives and e expansions, in the order in which they were embedded.
            layout: see `FusedBatchCollator`.
        """
        queries, texts = queries[layout["query_order"]], texts[layout["text_order"]]
        precision = torch.promote_types(queries.dtype, torch.float32)
        queries, texts = queries.to(precision), texts.to(precision)
        if self.normalize:
            queries, texts = F.normalize(queries, dim=-1), F.normalize(texts, dim=-1)
        keys = layout["document_keys"]  # (n + k, 2)
        documents, expansions = texts[: len(keys)], texts[len(keys) :]
        anchors = fuse_rows(queries, expansions, layout["expansion_counts"], self.fusion)
        if self.renormalize:
            anchors = F.normalize(anchors, dim=-1)
        own = torch.arange(len(queries), device=queries.device)
        if self.gather_across_devices and get_world_size() > 1:
            documents, begin = gather_ragged(documents)
            keys, own = gather_ragged(keys)[0], own + begin
        return info_nce(
            anchors,
            documents,
            own,
            false_negatives=find_false_negatives(keys, layout["relevant_keys"], own),
            similarity=self.similarity,
            temperature=self.temperature,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that determine the loss, for the model card."""
        names = "similarity temperature normalize renormalize gather_across_devices".split()
        fusion = "a function" if callable(self.fusion) else self.fusion
        return {"fusion": fusion, **{name: getattr(self, name) for name in names}}
