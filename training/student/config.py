"""The settings of a student's training, and named sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ...common.files import with_home
from ...encoding.fusion import NAMED_FUSIONS, check_fusion
from ..setting_checks import check_flag, check_number, check_whole

Distance = Literal["cosine", "mse"]
Targets = Literal["mean", "each"]


@dataclass(frozen=True)
class Profile:
    """A named set of training settings; see `StudentConfig` for what each one means."""

    distance: Distance
    distance_weight: float
    contrastive_weight: float
    temperature: float
    batch_size: int
    learning_rate: float
    epochs: float


#: "softqe" has the form of the loss of arXiv 2402.12663, squared distance beside the contrastive loss. Its numbers are
#: ours, as the paper could not be looked up: 200 makes a mean over a few hundred dimensions as large as a cosine.
PROFILES: Mapping[str, Profile] = {
    "expandr": Profile("cosine", 1.0, 1.0, 0.02, 32, 1e-4, 3),
    "softqe": Profile("mse", 200.0, 1.0, 0.02, 32, 1e-4, 3),
}

#: settings that do not affect the weights: where things are, and how they are computed
OTHER_SETTINGS = "teacher queries expansions base index test out device".split()


@dataclass(frozen=True)
class StudentConfig:
    """Which teacher a student learns from, on which queries, and how.

    Args:
        teacher: an encoder (short name, hub name, folder) or a saved `ExpandR` system, whose encoder is the teacher.
        queries: the query log: `pocket`, `irds:NAME`, a BEIR folder, or JSONL with `query` (and `query_id`; rows with
            `positives` count as judged).
        expansions: JSONL files of recorded passages for these queries; a query gets the passages of all of them.
        out: folder to create for the student.
        base: a smaller encoder of the same dimension that becomes the student; None copies the teacher's query side.
        index: an index that the student is going to search, checked before training; a saved system brings its own.
        split: the split of a collection's judgments.
        test: collections whose test queries must not be in the log; `queries` counts as one if it is a collection.
        allow_test_queries: train on test queries all the same, for a cross-validation.
        fusion: how a query and its passages become the target; None means the teacher's own.
        targets: "mean" gives a query one target, made of all of its passages; "each" one for each passage.
        profile: "expandr" or "softqe": the defaults of the next seven settings.
        distance: "cosine", or "mse", a mean over the dimensions, between the student's vector and the target.
        distance_weight, contrastive_weight: weights of the two losses. The second contrasts judged queries with the
            teacher's vectors of their relevant documents and those of the other queries in the batch.
        temperature: divisor of the similarities in the contrastive loss.
        batch_size: targets per step.
        learning_rate: for AdamW, decaying linearly to 0, without warm-up or weight decay.
        epochs: passes over the targets.
        checkpoints: how many times per run a checkpoint is written.
        seed: for the order of the targets and the dropout.
        device: "cuda" or "cpu"; None means cuda if available.

    Raises:
        ValueError: an invalid value. TypeError: a value of the wrong type, or a fusion that is a function.

    Example:
        >>> config = StudentConfig("contriever", "log.jsonl", "passages.jsonl", "student", epochs=5)
        >>> config.settings["epochs"], config.settings["distance"]
        (5, 'cosine')
    """

    teacher: str
    queries: str
    expansions: str | tuple[str, ...]
    out: str
    base: str | None = None
    index: str | None = None
    split: str = "train"
    test: tuple[str, ...] = ()
    allow_test_queries: bool = False
    fusion: Literal["average", "uniform"] | float | None = None
    targets: Targets = "mean"
    profile: str = "expandr"
    distance: Distance | None = None
    distance_weight: float | None = None
    contrastive_weight: float | None = None
    temperature: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    checkpoints: int = 5
    seed: int = 42
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("teacher", "queries", "out", "base", "index"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, with_home(str(getattr(self, name))))
        for name in ("expansions", "test"):
            given = getattr(self, name)
            several = (given,) if isinstance(given, (str, Path)) else tuple(given)
            object.__setattr__(self, name, tuple(with_home(str(one)) for one in several))
        if not self.expansions:
            raise ValueError("expansions must name at least one file of recorded passages")
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {tuple(PROFILES)}, got {self.profile!r}")
        for name, value in asdict(PROFILES[self.profile]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check_choices()
        self._check_numbers()

    def _check_choices(self) -> None:
        for name, choices in (("distance", get_args(Distance)), ("targets", get_args(Targets))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.device not in (None, "cuda", "cpu"):
            raise ValueError(f"device must be 'cuda' or 'cpu', got {self.device!r}")
        if self.fusion is not None and callable(check_fusion(self.fusion)):
            raise TypeError(f"fusion must be one of {NAMED_FUSIONS} or a weight: a function cannot be recorded")
        check_flag("allow_test_queries", self.allow_test_queries)

    def _check_numbers(self) -> None:
        for name in ("temperature", "learning_rate", "epochs"):
            check_number(name, getattr(self, name), above=0)
        for name in ("distance_weight", "contrastive_weight"):
            check_number(name, getattr(self, name), least=0)
        if not self.distance_weight and not self.contrastive_weight:
            raise ValueError("distance_weight and contrastive_weight are both 0, so there is nothing to learn")
        for name in ("batch_size", "checkpoints"):
            check_whole(name, getattr(self, name))
        check_whole("seed", self.seed, least=0)

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the student besides the teacher and the data, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in OTHER_SETTINGS}
