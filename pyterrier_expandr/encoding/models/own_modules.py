"""Whether a saved model's modules may be imported: sentence-transformers asks for trust in all but its own."""

from __future__ import annotations

import json
from typing import Any

from .anchordr_checkpoint import find_file

#: the module classes of this package, as modules.json names them
OURS = (
    "pyterrier_expandr.encoding.models.anchordr.AnchorDR",
    "pyterrier_expandr.encoding.models.dpr.DPRTower",
    "pyterrier_expandr.encoding.models.openvino.OpenVINOTransformer",
    "pyterrier_expandr.models.anchordr.AnchorDR",  # saved before the modules moved
    "pyterrier_expandr.models.dpr.DPRTower",
)
#: modules that may occur along with them: those of sentence-transformers that bring no code of their own
PLAIN = ("Normalize", "Pooling", "Dense", "Dropout", "LayerNorm", "Router")


def has_own_modules(name: str, revision: str | None = None) -> bool:
    """Whether a folder or hub model was saved from a module of this package, so that it can be trusted.

    Args:
        name: a folder or a hub name.
        revision: the model's revision on the hub.

    Raises:
        ValueError: along with our modules there are others that may bring code of their own.

    Example:
        >>> has_own_modules(".")
        False
    """
    modules = [(module.get("path", ""), module.get("type", "")) for module in _read(name, "modules.json", revision, [])]
    for path in [path for path, kind in modules if kind.endswith(".Router")]:
        inside = _read(name, _at(path, "router_config.json"), revision, {}).get("types", {})
        if any(inner.endswith(".Router") for inner in inside.values()):
            raise ValueError(f"{name!r} has a router inside a router, which was not expected")
        modules += [(_at(path, place), inner) for place, inner in inside.items()]
    if not any(kind in OURS for _, kind in modules):
        return False
    foreign = [kind for _, kind in modules if kind not in OURS and not _is_plain(kind)]
    for path in (path for path, kind in modules if kind.endswith(".Dense")):
        # A trusted Dense imports and calls whatever it names as its activation.
        activation = str(_read(name, _at(path, "config.json"), revision, {}).get("activation_function", "torch.nn."))
        foreign += [] if activation.startswith("torch.nn.") else [activation]
    if foreign:
        raise ValueError(f"{name!r} has modules that are not this package's own and were not expected: {foreign}")
    return True


def _at(path: str, filename: str) -> str:
    return f"{path}/{filename}" if path else filename


def _is_plain(kind: str) -> bool:
    return kind.startswith("sentence_transformers.") and kind.rpartition(".")[2] in PLAIN


def _read(name: str, filename: str, revision: str | None, missing: Any) -> Any:
    path = find_file(name, filename, revision)
    return json.loads(path.read_text(encoding="utf-8")) if path else missing
