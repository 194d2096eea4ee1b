"""Collapse is watched: what the LLM writes for held-out queries, measured at every evaluation of a training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from ....common.files import write_json
from ....expansion.backends.base import Message, Request, Sampling
from ....expansion.backends.huggingface import HuggingFaceBackend
from ....expansion.backends.local.lending import lent
from ....expansion.cache import GenerationCache
from ....expansion.generation import generate_cached
from ...run_folder import is_first_process
from ..pair_tokens import TokenizedPairs
from .reward import GroupReward, passage
from .signs import EVALUATIONS, Written, collapse, evaluation_rows, text_figures

logger = logging.getLogger(__name__)


class Watch:
    """Measures the model on held-out queries, always with the same seeds, and keeps the rows in a file.

    The held-out reward must be comparable from one evaluation to the next, and ranks among a model's own texts always
    have the same mean. So a text of the model is valued among texts that the untrained model wrote for the query,
    one fewer than a group has; of `parts` only the column of the model's text counts.

    Args:
        reward: values the texts.
        backend: writes them as at inference.
        held_out: rows with `query_id`, and the messages of their prompts.
        group_size: texts in a group.
        seed: for all texts.
        folder: where the texts of the untrained model and the rows are kept.
    """

    def __init__(
        self,
        reward: GroupReward,
        backend: HuggingFaceBackend,
        held_out: TokenizedPairs,
        *,
        group_size: int,
        seed: int,
        folder: Path,
    ) -> None:
        self.reward, self.backend, self.folder = reward, backend, folder
        self.query_ids = [row["query_id"] for row in held_out.rows]
        self.prompts, self.end = held_out.prompts, held_out.end
        self.samples, self.sampling = tuple(range(group_size)), reward.settings.sampling(seed)
        self._warned = False

    def measure(self, model: Any) -> dict[str, float]:
        """`reward`, its parts as `reward/NAME`, what tells of a collapse, and with an index `measure`.

        `measure_error` is then the standard error of its difference from the untrained model's, over the queries.
        """
        with model.disable_adapter(), lent(model, self.backend), closing(self._cache()) as cache:
            base = _texts(self.backend, self.prompts, self.sampling, self.samples, cache)
        with lent(model, self.backend):
            texts = [row[0] for row in _texts(self.backend, self.prompts, self.sampling, (0,), GenerationCache())]
        groups = [[text.passage, *(one.passage for one in row[1:])] for text, row in zip(texts, base, strict=True)]
        parts = self.reward.parts(self.query_ids, groups)
        row = {"reward": self.reward.total(parts)} | {f"reward/{name}": values for name, values in parts.items()}
        measured = {name: float(values[:, 0].mean()) for name, values in row.items()}
        gain, before = (
            self.reward.measured(self.query_ids, [text.passage for text in found])
            for found in (texts, [row[0] for row in base])
        )
        if gain is not None and before is not None:
            measured["measure"] = float(gain.mean())
            if len(gain) > 1:
                measured["measure_error"] = float((gain - before).std(ddof=1) / len(gain) ** 0.5)
        queries = [self.reward.queries[name].query for name in self.query_ids]
        return measured | text_figures(texts, queries) | {"kl": self._divergence(model, texts)}

    def record(self, history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """Write the rows of a Trainer's history to the folder, warn of a collapse once, and return them."""
        rows = evaluation_rows(history)
        if not is_first_process():
            return rows
        write_json(self.folder / EVALUATIONS, rows)
        if not self._warned and (reason := collapse(rows)) is not None:
            self._warned = True
            logger.warning("the model is collapsing at step %d: %s", rows[-1]["step"], reason)
        return rows

    def _cache(self) -> GenerationCache:
        """What the untrained model wrote; one process keeps it in a file."""
        return GenerationCache(self.folder / "untrained.sqlite") if is_first_process() else GenerationCache()

    def _divergence(self, model: Any, texts: Sequence[Written]) -> float:
        """The mean over the tokens of the passages of KL(model || untrained model), over the whole vocabulary."""
        found = []
        training = model.training
        model.eval()
        for prompt, text in zip(self.prompts, texts, strict=True):
            begin = self.backend.prompt_ids(prompt)
            ids = torch.tensor([[*begin, *read_tokens(self.backend, text, self.end)]], device=model.device)
            logits = []
            for adapter in (nullcontext(), model.disable_adapter()):
                with torch.inference_mode(), adapter:
                    logits.append(model(input_ids=ids).logits[0, len(begin) - 1 : -1].float().log_softmax(-1))
            found.append(torch.nn.functional.kl_div(logits[1], logits[0], log_target=True, reduction="none").sum(-1))
        model.train(training)
        return float(torch.cat(found).mean())


def read_tokens(backend: HuggingFaceBackend, text: Written, end: int) -> list[int]:
    """The tokens of a passage, and `end` unless the text was cut at the limit; an empty one has `end` at least."""
    ids = backend.text_ids(text.passage)
    return ids if text.truncated and ids else [*ids, end]


def _texts(
    backend: HuggingFaceBackend,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    samples: tuple[int, ...],
    cache: GenerationCache,
) -> list[list[Written]]:
    """What the backend writes for each prompt, one text for each of the numbered samples."""
    requests = [Request(tuple(prompt), sampling, samples) for prompt in prompts]
    generations = generate_cached(backend, requests, cache)
    return [
        [Written(passage(one.text, prompt), one.truncated) for one in group]
        for prompt, group in zip(prompts, generations, strict=True)
    ]
