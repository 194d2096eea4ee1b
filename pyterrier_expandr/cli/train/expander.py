"""`expandr train expander` and `expandr train merge`: from preference pairs to a standalone model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common import Device
from .app import shares, show_record, train


@train.command(
    epilog="Example: accelerate launch --no_python expandr train expander --base Qwen/Qwen2.5-7B-Instruct "
    "--pairs pairs/pairs.jsonl --out adapter"
)
def expander(
    base: Annotated[str, typer.Option(help="Hub name or folder of the instruct model.")],
    pairs: Annotated[Path, typer.Option(help="JSONL or Parquet file of preference pairs.")],
    out: Annotated[Path, typer.Option(help="Folder to make; OUT.work beside it holds an unfinished run.")],
    method: Annotated[str, typer.Option(help="dpo or sft-best; others: `expandr train online`.")] = "dpo",
    learning_rate: float = 2e-5,
    epochs: float = 2.0,
    loss: Annotated[
        list[str] | None,
        typer.Option(help="Of dpo, NAME=WEIGHT: sigmoid, robust, sft (the chosen text); repeat it. sigmoid=1."),
    ] = None,
    label_smoothing: Annotated[float, typer.Option(help="Of robust: share of pairs the wrong way round.")] = 0.0,
    ld_alpha: Annotated[float, typer.Option(help="Weight of what a pair's longer text has more, up to 1.")] = 1.0,
    beta: Annotated[float, typer.Option(help="How dearly the model pays for leaving its reference.")] = 0.1,
    max_grad_norm: Annotated[float, typer.Option(help="Gradients are clipped to it.")] = 10.0,
    lora_r: int = 8,
    lora_alpha: int = 32,
    lora_dropout: float = 0.1,
    target_module: Annotated[
        list[str] | None, typer.Option(help="That carries an adapter; repeat it. q_proj v_proj.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs of a step, over all devices.")] = 16,
    device_batch_size: Annotated[int, typer.Option(help="Pairs that a device holds at once.")] = 2,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and completion; prompts are never cut.")] = 612,
    overlong: Annotated[str, typer.Option(help="Pairs that are longer: drop, or cut their completions.")] = "drop",
    eval_fraction: Annotated[float, typer.Option(help="Part of the queries that is held out.")] = 0.1,
    evaluations: Annotated[int, typer.Option(help="Measurements and checkpoints in a run.")] = 10,
    precompute_reference: Annotated[
        bool,
        typer.Option("--precompute-reference", help="Compute the reference's log-probabilities once, before training."),
    ] = False,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Needs CUDA and bitsandbytes.")] = False,
    report_prompts: Annotated[int, typer.Option(help="Prompts whose generations are compared; 0: none.")] = 32,
    report_tokens: Annotated[int, typer.Option(help="Maximum tokens of such a generation.")] = 512,
    seed: int = 42,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    revision: Annotated[str | None, typer.Option(help="The base model's revision on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the base model.")
    ] = False,
) -> None:
    """Train a LoRA adapter by DPO, or on the chosen texts alone; a rerun resumes where it was interrupted."""
    given = dict(locals())  # each option is a field of the configuration
    from ...training.expander.config import PAPER_LOSSES, ExpanderTrainingConfig
    from ...training.expander.train import RECORD, train_expander

    modules = tuple(given.pop("target_module") or ExpanderTrainingConfig.target_modules)
    losses = shares(given.pop("loss") or [], "--loss") or PAPER_LOSSES
    places = {"pairs": str(pairs), "out": str(out)}
    config = ExpanderTrainingConfig(**given | places | {"target_modules": modules, "losses": losses})
    folder = train_expander(config, verbose=True)
    show_record(folder / RECORD, ("pairs", "kept_step", "before", "after", "generation_words"))


@train.command(epilog="Example: expandr train merge --adapter adapter --out merged")
def merge(
    adapter: Annotated[Path, typer.Option(help="Folder of the adapter.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    base: Annotated[str | None, typer.Option(help="The base model; default: the one that the adapter names.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest relative difference of logits.")] = None,
    device: Device = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Revision of the base on the hub; default: the one that the adapter was trained on."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the base.")
    ] = False,
) -> None:
    """Merge a LoRA adapter into its base model, and check the logits of the result."""
    from ...training.expander.merge import RECORD, merge_adapter

    folder = merge_adapter(
        adapter,
        out,
        base=base,
        dtype=dtype,
        tolerance=tolerance,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    typer.echo(
        f"logits differ by {record['error']:.2g} (the adapter changes them by {record['effect']:.2g}); in {folder}"
    )
