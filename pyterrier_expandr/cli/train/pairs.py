"""`expandr train pairs`: from relevance judgments to preference pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..common import LLM_HELP, Device, Ray, RayGPUs, say, spread_backend
from .app import shares, train

Ratios = Annotated[
    list[str] | None, typer.Option(help="NAME=SHARE: use only this share of NAME.jsonl's rows; repeat it.")
]
Temperatures = Annotated[
    list[float] | None, typer.Option(help="Temperature of candidates; repeat it. Default: 0.8 0.9 1.0 1.1.")
]
Rewards = Annotated[
    list[str] | None, typer.Option(help="self, retriever, measure ...; repeat it. Default: the first two.")
]


@train.command(
    epilog="Example: expandr train pairs --dataset irds:beir/scifact/train --llm Qwen/Qwen2.5-7B-Instruct "
    "--encoder facebook/contriever --out pairs"
)
def pairs(
    dataset: Annotated[str, typer.Option(help="pocket, irds:NAME, a BEIR folder, or JSONL (a file or a folder).")],
    llm: Annotated[str, typer.Option(help=f"Writes the candidates. {LLM_HELP}")],
    encoder: Annotated[
        str, typer.Option(help="The encoder that rewards them: a name of `expandr models`, hub name or folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make; OUT.work beside it holds an unfinished run.")],
    split: Annotated[str, typer.Option(help="Which judgments of pocket or a BEIR folder.")] = "train",
    ratio: Ratios = None,
    min_relevance: Annotated[int, typer.Option(help="The grade from which on a document is a positive.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Use only the first queries, for a trial.", min=1)] = None,
    temperature: Temperatures = None,
    samples: Annotated[int, typer.Option(help="Candidates at each temperature.")] = 8,
    max_new_tokens: int = 512,
    seed: int = 42,
    filter: Annotated[str, typer.Option(help="paper or reference.")] = "paper",
    threshold: Annotated[float | None, typer.Option(help="Threshold of the filter; default: the filter's own.")] = None,
    reward: Rewards = None,
    index: Annotated[Path | None, typer.Option(help="FAISS index of the collection, which measure searches.")] = None,
    min_gap: Annotated[float, typer.Option(help="Minimum difference in reward within a pair.")] = 0.0,
    pairs_per_query: Annotated[int, typer.Option(help="Best with worst, second best with second worst ...", min=1)] = 1,
    choose_truncated: Annotated[bool, typer.Option("--choose-truncated", help="Also texts that were cut.")] = False,
    format: Annotated[str, typer.Option(help="trl or released.")] = "trl",
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet rather than JSONL.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count broken or unknown input and go on.")] = False,
    pooling: Annotated[str | None, typer.Option(help="mean, cls ...; for encoders that do not say.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read of each text by the encoder.")] = None,
    ray: Ray = None,
    ray_gpus: RayGPUs = 0,
    device: Device = None,
) -> None:
    """Make preference pairs from relevance judgments; a rerun resumes where it was interrupted."""
    from ...encoding.registry import load_encoder
    from ...expansion.backends.opening import open_backend
    from ...training.preferences.candidates import CandidateSettings
    from ...training.preferences.choice import PreferenceSettings
    from ...training.preferences.measured import searching
    from ...training.preferences.pairs import PairsConfig, build_pairs

    drawn = {"samples": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    candidates = CandidateSettings(tuple(temperature or CandidateSettings.temperatures), **drawn)
    rewards, rest = tuple(reward or PreferenceSettings.rewards), (min_gap, pairs_per_query, choose_truncated)
    preferences = PreferenceSettings(filter, threshold, candidates.count, rewards, None, *rest)
    model = load_encoder(encoder, fuse=True, pooling=pooling, max_length=max_length, device=device)
    preferences = searching(preferences, index, model, dataset, split)
    config = PairsConfig(
        dataset,
        split,
        min_relevance=min_relevance,
        ratios=shares(ratio or [], "--ratio"),
        limit=limit,
        skip_bad=skip_bad,
        candidates=replace(candidates, answers=preferences.needs_answers),
        preferences=preferences,
        format=format,
        suffix=".parquet" if parquet else ".jsonl",
    )
    with open_backend(llm, device=device) as backend:
        report = build_pairs(config, spread_backend(backend, ray, ray_gpus), model, out, verbose=True)
    say(f"{report}\nin {out / ('pairs' + config.suffix)}")
