"""vLLM as what writes while TRL trains: TRL's options for it, its weights, and what it leaves behind."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..config import ExpanderTrainingConfig

logger = logging.getLogger(__name__)

#: what TRL and vLLM set; whatever is trained next in the process would take itself for part of a distributed run
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING")


def engine_arguments(config: ExpanderTrainingConfig) -> dict[str, Any]:
    """TRL's own options for what generates; none for transformers."""
    if config.vllm is None:
        return {}
    server = {"vllm_mode": "server", "vllm_server_base_url": config.vllm}
    found = {"use_vllm": True} | ({"vllm_mode": "colocate"} if config.vllm == "colocate" else server)
    if config.method != "grpo":
        return found
    # TRL multiplies a text's loss by its probability in training over that in vLLM, where tokens outside top_p have
    # none: by top_p or more for a token, and by next to nothing for a whole text, which is TRL's default. So by token.
    # Without a length vLLM wants memory for a text that fills the model's context.
    return found | {"vllm_importance_sampling_mode": "token_truncate", "vllm_max_model_length": config.max_length}


def keep_base(trainer: Any, method: str) -> None:
    """Restore the base after each update of vLLM's weights, for which TRL adds the adapter to it and subtracts it.

    What rounding leaves there would grow from step to step, and a run that is resumed would begin without it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    owner, name = (trainer.vllm_generation, "sync_weights") if method == "grpo" else (trainer, "_move_model_to_vllm")
    update = getattr(owner, name)
    layers: list[Any] = [part.get_base_layer() for part in trainer.model.modules() if isinstance(part, BaseTunerLayer)]
    kept: list[torch.Tensor] = []

    def updated() -> None:
        if not kept:  # beside the GPU's memory, and once: the base is not trained
            kept.extend(layer.weight.detach().to("cpu", copy=True) for layer in layers)
        update()
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.data.copy_(weight)

    setattr(owner, name, updated)


@contextmanager
def released(config: ExpanderTrainingConfig) -> Iterator[None]:
    """Give back what vLLM takes in this process: memory, the process group, and the variables that are set for it.

    What is trained next in the process, such as the retriever of a recipe, would otherwise take itself for part of a
    distributed run. A process that was part of one before keeps all.
    """
    import torch

    alone = "WORLD_SIZE" not in os.environ and not torch.distributed.is_initialized()
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        yield
    finally:
        if (
            config.vllm == "colocate" and alone and "RANK" in os.environ
        ):  # which TRL sets just before it starts the engine
            try:
                from vllm.distributed import cleanup_dist_env_and_memory

                gc.collect()
                cleanup_dist_env_and_memory()
            except Exception:  # the adapter, or what went wrong before, matters more
                logger.warning("vLLM could not give back its memory and process group", exc_info=True)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
