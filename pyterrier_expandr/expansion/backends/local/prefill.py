"""Reading a prompt once for all its samples, for models whose state can be copied to each of them."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


#: model families for which transformers mixes up the rows of a batch: RWKV's step adds each row's state to every row
ONE_BY_ONE = ("rwkv",)

#: families with another state, which transformers 4 does not report
OTHER_STATE = ("recurrent_gemma",)


def shares_prefill(model: PreTrainedModel) -> bool:
    """Whether `model` keeps only keys and values of a prompt, which can be copied from row to row.

    Mamba, RWKV and similar models keep another kind of state, as do hybrids such as LFM2, Granite 4 and Qwen3-Next in
    some of their layers. transformers' cache cannot copy that state, and not every such layer masks padding.
    """
    from transformers import DynamicCache

    if model.config.model_type in OTHER_STATE:
        return False
    if model._is_stateful or not model._supports_default_dynamic_cache():  # type: ignore[operator]
        return False
    return not any(hasattr(layer, "update_conv_state") for layer in DynamicCache(config=model.config).layers)


def prefill(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> Any:
    """Keys and values of all prompt tokens but the last, computed once per prompt, then copied to the rows of `place`.

    None if the prompts have a single token, so that there is nothing to share.
    """
    from transformers import DynamicCache

    if ids.shape[1] < 2:
        return None
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    output = model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        past_key_values=cache,
        use_cache=True,
        **({"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}),
    )
    output.past_key_values.batch_select_indices(place)
    return output.past_key_values
