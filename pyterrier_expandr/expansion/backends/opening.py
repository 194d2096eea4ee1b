"""Names of backends, as used by the command line, recipes and notebooks."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from .base import Backend

GRAMMAR = """A backend is named
  hf:NAME_OR_FOLDER       transformers, in this process (a bare NAME_OR_FOLDER means the same)
  vllm:NAME_OR_FOLDER     vLLM, in this process
  openai:MODEL@URL        a server with OpenAI's chat completions, e.g. openai:Qwen/Qwen2.5-7B-Instruct@http://localhost:8000/v1
and may end in ?OPTION=VALUE&OPTION=VALUE, e.g. vllm:Qwen/Qwen2.5-7B-Instruct?tensor_parallel_size=2"""


def open_backend(name: str, *, device: str | None = None, **options: Any) -> Backend:
    """The backend that `name` refers to; nothing is loaded or contacted before its first use.

    Names are `hf:NAME_OR_FOLDER`, `vllm:NAME_OR_FOLDER` and `openai:MODEL@URL`, optionally followed by
    `?option=value&option=value`; a name without one of these three prefixes is a model for transformers. Options are
    the arguments of `HuggingFaceBackend`, `VLLMBackend` and `OpenAIBackend`: text is written as it is, numbers and
    everything else as JSON.

    Args:
        name: the backend and its model.
        device: "cuda" or "cpu"; only used for transformers.
        options: further options; options in the name take precedence over these.

    Raises:
        ValueError: an unknown backend or option, a missing model, or any error of the backend's class.

    Example:
        >>> open_backend("openai:llama3.1:8b@http://localhost:11434/v1?concurrency=4").model
        'llama3.1:8b'
        >>> open_backend("Qwen/Qwen2.5-7B-Instruct")
        HuggingFaceBackend('Qwen/Qwen2.5-7B-Instruct')
    """
    word, model, written = backend_parts(name)
    kind = _backend_class(word)
    if word == "hf" and device is not None:
        options = {"device": device} | options
    if word == "openai":
        model, options["base_url"] = _model_and_url(model)
    kinds = {p.name: str(p.annotation) for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted((set(options) | set(written)) - set(kinds)):
        raise ValueError(f"the backend {word!r} has no option {', '.join(unknown)}: its options are {', '.join(kinds)}")
    return kind(model, **options | {option: _value(option, text, kinds[option]) for option, text in written.items()})


def backend_parts(name: str) -> tuple[str, str, dict[str, str]]:
    """The backend's prefix, its model (for a server with `@URL`), and the options at the end exactly as written.

    Raises:
        ValueError: an unknown backend, a missing model, or malformed options.

    Example:
        >>> backend_parts("vllm:Qwen/Qwen2.5-7B-Instruct?tensor_parallel_size=2")
        ('vllm', 'Qwen/Qwen2.5-7B-Instruct', {'tensor_parallel_size': '2'})
    """
    if name and Path(name).is_dir():
        return "hf", name, {}
    rest, _, query = name.partition("?")
    found = re.fullmatch(r"([A-Za-z]\w+):(.*)", rest, flags=re.DOTALL)
    word, model = (found[1], found[2]) if found else ("hf", rest)
    if word not in ("hf", "vllm", "openai"):
        raise ValueError(
            f"there is no backend {word!r}.\n{GRAMMAR}\nIf the model's own name begins like this, write hf:{word}:..."
        )
    if not model.strip():
        raise ValueError(f"the backend {word!r} needs a model.\n{GRAMMAR}")
    written = [part.partition("=") for part in query.split("&") if query]
    if not all(option and sign for option, sign, _ in written):
        raise ValueError(f"options are written OPTION=VALUE and joined by &.\n{GRAMMAR}")
    return word, model, {option: text for option, _, text in written}


def _value(option: str, text: str, kind: str) -> Any:
    """An option's value: text if the backend expects text, otherwise parsed as JSON."""
    if kind.startswith("str"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the option {option} must be {kind}, written as JSON (true, 0.5, 8), got {text!r}") from error


def _model_and_url(rest: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+?)@(https?://.+)", rest, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"openai: needs a model and the address of its server, MODEL@URL.\n{GRAMMAR}")
    return found[1], found[2]


def _backend_class(word: str) -> Any:
    if word == "hf":
        from .huggingface import HuggingFaceBackend

        return HuggingFaceBackend
    if word == "vllm":
        from .vllm import VLLMBackend

        return VLLMBackend
    from .openai import OpenAIBackend

    return OpenAIBackend
