"""The LLMs behind one protocol: `Request`s in, `Generation`s out (`base.Backend`), as a stream.

transformers in this process, vLLM, and servers with OpenAI's chat completions; `opening.open_backend` opens each by
name. A new backend is a file with a subclass of `Backend`, a word in `opening`, and a subclass of the tests'
`BackendContract`.
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
