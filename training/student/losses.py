"""The loss of a student: its distance to the fused vectors, and contrast with the teacher's document vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import Tensor, nn

from ..retriever.losses import info_nce
from .config import Distance


@dataclass(frozen=True)
class Judged:
    """The relevant documents of the rows of a training set.

    Attributes:
        documents: (m, d), the teacher's vectors of all relevant documents.
        relevant: for each row, the numbers of its relevant documents; empty for a query without judgments.
    """

    documents: Tensor
    relevant: Sequence[Sequence[int]]


class StudentLoss(nn.Module):
    """`distance_weight * distance + contrastive_weight * InfoNCE`, where a batch's labels are the numbers of its rows.

    The documents never move, so the contrast is with vectors that were computed once. A query with several relevant
    documents is contrasted once for each of them, with the others left out of the denominator.

    Args:
        model: the student's query encoder.
        targets: (n, d), the vector that each row should get.
        distance: "cosine" or "mse".
        distance_weight: weight of the distance.
        contrastive_weight: weight of the contrast.
        judged: the relevant documents, or None without any.
        temperature: divisor of the similarities in the contrast.

    Example:
        >>> loss = StudentLoss(model, torch.eye(3), distance="mse")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: SentenceTransformer,
        targets: Tensor,
        *,
        distance: Distance = "cosine",
        distance_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        judged: Judged | None = None,
        temperature: float = 0.02,
    ) -> None:
        super().__init__()
        self.model, self.distance = model, EmbedDistillLoss(model, distance_metric=distance)
        self.distance_weight, self.contrastive_weight = distance_weight, contrastive_weight
        self.targets, self.judged, self.temperature = targets, judged, temperature

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            sentence_features: the features of the queries.
            labels: (b,), the numbers of their rows.
        """
        (features,) = sentence_features
        return self.loss_from_embeddings(self.model(features)["sentence_embedding"], labels.flatten())

    def loss_from_embeddings(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The loss of embeddings (b, d) of the rows with these numbers (b,)."""
        places = rows.cpu()
        loss = self.distance_weight * self.distance.compute_loss_from_embeddings([vectors], [self.targets[places]])
        if self.judged is None or not self.contrastive_weight:
            return loss
        return loss + self.contrastive_weight * self._contrast(vectors, places.tolist())

    def _contrast(self, vectors: Tensor, rows: list[int]) -> Tensor:
        assert self.judged is not None
        relevant = [set(self.judged.relevant[row]) for row in rows]
        documents = sorted(set().union(*relevant))
        pairs = [(place, document) for place, own in enumerate(relevant) for document in sorted(own)]
        if not pairs:
            return vectors.sum() * 0
        own = torch.tensor([documents.index(document) for _, document in pairs])
        others = [[other in relevant[place] and other != document for other in documents] for place, document in pairs]
        return info_nce(
            vectors[[place for place, _ in pairs]],
            self.judged.documents[documents].to(vectors),
            own.to(vectors.device),
            false_negatives=torch.tensor(others, device=vectors.device),
            temperature=self.temperature,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that determine the loss, for the model card."""
        names = "distance_weight contrastive_weight temperature".split()
        return {"distance": self.distance.distance_metric, **{name: getattr(self, name) for name in names}}
