"""All LLMs behind one protocol: `Request`s in, `Generation`s out (`base.Backend`), as a stream.

There are backends for transformers in this process, for vLLM, and for servers with OpenAI's chat completions;
`opening.open_backend` opens each by name. To add a backend, write a file with a subclass of `Backend`, add its prefix
to `opening`, and subclass `BackendContract` in the tests.
"""

from ...common.lazy import lazy_names

_HOME = {
    "Backend": "base",
    "Generation": "base",
    "HuggingFaceBackend": "huggingface",
    "OpenAIBackend": "openai",
    "Request": "base",
    "Sampling": "base",
    "VLLMBackend": "vllm",
    "open_backend": "opening",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
