"""What the models of a server do not accept, learned from their error messages and remembered across processes."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...common.files import cache_folder, write_json

logger = logging.getLogger(__name__)

#: the fields that a request can do without, and those that some servers know by another name
LEFT_OUT = ("seed", "top_p", "temperature")
RENAMED = {"max_tokens": "max_completion_tokens"}

#: how an error message shows that it is about a field rather than its value
REFUSED = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra_forbidden|not permitted|not allowed|"
    r"not accept|deprecated|cannot both|only the default|use '?max_completion_tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quirks:
    """What a model on a server does not accept: fields to leave out or to send under another name; and its context."""

    not_honoured: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    context: int | None = None

    def applied(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The `fields` of a request in the form that this model accepts.

        Example:
            >>> Quirks(("seed",), ("max_tokens",)).applied({"seed": 1, "max_tokens": 9, "top_p": 0.5})
            {'max_completion_tokens': 9, 'top_p': 0.5}
        """
        kept = {name: value for name, value in fields.items() if name not in self.not_honoured}
        return {RENAMED[name] if name in self.renamed else name: value for name, value in kept.items()}

    def after(self, said: str) -> Quirks | None:
        """These quirks plus the one that an error message reveals, or None if it reveals nothing new.

        Example:
            >>> Quirks().after("Unsupported value: 'temperature' does not support 0.7 with this model.")
            Quirks(not_honoured=('temperature',), renamed=(), context=None)
        """
        if not REFUSED.search(said):
            return None
        named = [name for name in (*RENAMED, *LEFT_OUT) if re.search(rf"(?<!\w){name}(?!\w)", said)]
        fresh = next((name for name in named if name not in self.not_honoured + self.renamed), None)
        if fresh is None:
            return None
        if fresh in RENAMED:
            return Quirks(self.not_honoured, (*self.renamed, fresh), self.context)
        return Quirks(tuple(sorted({*self.not_honoured, fresh})), self.renamed, self.context)

    def joined(self, other: Quirks) -> Quirks:
        """The quirks of both combined; the context is taken from this one."""
        return Quirks(
            tuple(sorted({*self.not_honoured, *other.not_honoured})),
            tuple(sorted({*self.renamed, *other.renamed})),
            self.context,
        )


def remembered(server: str, model: str) -> Quirks:
    """What an earlier process learned about a model; empty if the file is missing or unreadable."""
    try:
        known = _read()[server][model]
        return Quirks(tuple(known["not_honoured"]), tuple(known["renamed"]), known["context"])
    except (OSError, ValueError, KeyError, TypeError):
        return Quirks()


def remember(server: str, model: str, quirks: Quirks) -> None:
    """Save what was learned for later processes; if the folder cannot be written, each process learns it again."""
    try:
        known = _read()
    except (OSError, ValueError):
        known = {}
    known.setdefault(server, {})[model] = asdict(quirks)
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), known)
    except OSError as error:
        logger.warning("what %s does not take cannot be remembered: %s", model, error)


def _read() -> dict[str, Any]:
    return dict(json.loads(_file().read_text(encoding="utf-8")))


def _file() -> Path:
    return cache_folder() / "servers.json"
