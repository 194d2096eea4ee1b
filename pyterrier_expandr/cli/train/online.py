"""`expandr train online`: from queries and a reward to an adapter; the LLM writes while it is trained."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from .app import shares, show_record, train
from .retriever import fusion_of


@train.command(
    epilog="Example: expandr train online --base Qwen/Qwen2.5-7B-Instruct --queries pairs/candidates.jsonl "
    "--encoder contriever --out adapter"
)
def online(
    base: Annotated[str, typer.Option(help="Hub name or folder of the instruct model.")],
    queries: Annotated[Path, typer.Option(help="JSONL: examples, or candidates.jsonl of `expandr train pairs`.")],
    encoder: Annotated[str, typer.Option(help="Hub name, folder or short name of the reward encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to make; OUT.work beside it holds an unfinished run.")],
    method: Annotated[str, typer.Option(help="grpo or online-dpo.")] = "grpo",
    reward: Annotated[
        list[str] | None,
        typer.Option(help="NAME=WEIGHT: self, retriever, measure, length:WORDS; repeat it. self=1 retriever=1."),
    ] = None,
    index: Annotated[str | None, typer.Option(help="Index that the encoder filled, for the measure.")] = None,
    qrels: Annotated[str | None, typer.Option(help="File of judgments of the queries, for the measure.")] = None,
    measure: Annotated[str, typer.Option(help="Measure of the search.")] = "nDCG@10",
    fusion: Annotated[str, typer.Option(help="average, uniform, or the query's weight.")] = "average",
    group_size: Annotated[int | None, typer.Option(help="grpo: texts of a query at each step; 8.")] = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum tokens of a text.")] = 512,
    prompt: Annotated[str, typer.Option(help="A named prompt, or a template with {query}.")] = "q2d",
    vllm: Annotated[str | None, typer.Option(help="colocate; for grpo also the address of a server.")] = None,
    learning_rate: float = 2e-5,
    epochs: float = 2.0,
    beta: Annotated[float, typer.Option(help="How dearly the model pays for leaving its reference.")] = 0.1,
    max_grad_norm: Annotated[float, typer.Option(help="Gradients are clipped to it.")] = 10.0,
    lora_r: int = 8,
    lora_alpha: int = 32,
    target_module: Annotated[
        list[str] | None, typer.Option(help="That carries an adapter; repeat it. q_proj v_proj.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="grpo: texts of a step; online-dpo: pairs.")] = 16,
    device_batch_size: Annotated[int, typer.Option(help="Texts or pairs that a device holds at once.")] = 2,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and text; prompts are never cut.")] = 612,
    eval_fraction: Annotated[float, typer.Option(help="Part of the queries that is held out.")] = 0.1,
    evaluations: Annotated[int, typer.Option(help="Measurements and checkpoints in a run.")] = 10,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Needs CUDA and bitsandbytes.")] = False,
    seed: int = 42,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    revision: Annotated[str | None, typer.Option(help="The base model's revision on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the base model.")
    ] = False,
) -> None:
    """Train a LoRA adapter on texts that the LLM writes and a reward judges at once; a rerun resumes."""
    given = dict(locals())  # each option is a field of the configuration, or of its online settings
    from ...training.expander.config import ExpanderTrainingConfig
    from ...training.expander.online.settings import OnlineSettings
    from ...training.expander.train import RECORD, train_expander

    modules = tuple(given.pop("target_module") or ExpanderTrainingConfig.target_modules)
    rewards = shares(given.pop("reward") or [], "--reward") or dict.fromkeys(OnlineSettings.rewards, 1.0)
    given |= {"rewards": tuple(rewards), "weights": tuple(rewards.values()), "fusion": fusion_of(fusion)}
    settings = OnlineSettings(**{item.name: given.pop(item.name) for item in fields(OnlineSettings)})
    places = {"pairs": str(given.pop("queries")), "out": str(out)}
    config = ExpanderTrainingConfig(**given | places | {"target_modules": modules, "online": settings})
    folder = train_expander(config, verbose=True)
    show_record(folder / RECORD, ("pairs", "kept_step", "before", "after"))
