"""All cleaning steps together: from a text as the model wrote it to the passage in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .echoes import without_echo
from .endings import without_closing
from .markup import without_markup, without_wrapping
from .preambles import strip_preamble
from .refusals import is_refusal
from .repetition import without_repetition

#: The name of this cleaning, recorded with every result; if its output changes, it needs a new number.
CLEANING = "clean_passage/1"

#: The cleaning recorded for earlier systems: only introductions are removed, and refusals are kept.
OLDER_CLEANING = "strip_preamble"


def clean_passage(text: str, prompt: str | None = None) -> str:
    """The passage in `text`, without what a chat model adds around it.

    Removed are: leftovers of the chat template, a repetition of the prompt, introductions (see `strip_preamble`), tags
    or a code fence around the whole text, a JSON object with a single text, closing offers and notes about the text
    itself, and the copies of sentences that a model repeated up to its limit. Nothing is ever added, and a text without
    any of these is returned exactly as it was. Applying it twice gives the same as applying it once.

    Args:
        text: what the model wrote.
        prompt: the user message that it answered; without it, the named prompts are looked for.

    Example:
        >>> clean_passage("Sure!\\n\\n<passage>The sky is blue.</passage>\\n\\nLet me know if you have any questions!")
        'The sky is blue.'
        >>> clean_passage('{"passage": "The sky is blue."}')
        'The sky is blue.'
    """
    while (shorter := _clean_once(text, prompt)) != text:
        text = shorter
    return text


def _clean_once(text: str, prompt: str | None) -> str:
    text = without_echo(without_markup(text), prompt)
    return without_repetition(without_closing(strip_preamble(without_wrapping(text))))


def cleaning_name(clean: bool | str) -> str | None:
    """The name of a cleaning as recorded with results: of `clean_passage` for True, None for False, a name unchanged.

    Raises:
        ValueError: the name is not a cleaning of this release.

    Example:
        >>> cleaning_name(True), cleaning_name(False), cleaning_name("strip_preamble")
        ('clean_passage/1', None, 'strip_preamble')
    """
    if isinstance(clean, bool):
        return CLEANING if clean else None
    if clean not in (CLEANING, OLDER_CLEANING):
        raise ValueError(
            f"clean must be True, False, {CLEANING!r} or {OLDER_CLEANING!r}, got {clean!r}: "
            "a cleaning with another name may come from a later release of pyterrier_expandr"
        )
    return clean


def cleaning_record(cleaning: str | None, keep_refusals: bool) -> dict[str, Any]:
    """What results record about a cleaning; refusals are only part of the current one, so older records stay the same.

    Example:
        >>> cleaning_record("strip_preamble", False)
        {'cleaning': 'strip_preamble'}
    """
    return {"cleaning": cleaning, **({"keep_refusals": keep_refusals} if cleaning == CLEANING else {})}


def passages_in(
    texts: Iterable[str], prompt: str | None = None, *, cleaning: str | None = CLEANING, keep_refusals: bool = False
) -> tuple[list[str], int]:
    """The cleaned passages in `texts`, without blank ones, and the number of refusals that were dropped.

    Args:
        texts: what the model wrote.
        prompt: see `clean_passage`.
        cleaning: a name from `cleaning_name`; with any name other than the current one, refusals are kept.
        keep_refusals: drop only blank texts.

    Example:
        >>> passages_in(["Answer: Air scatters light.", " ", "I'm sorry, but I can't help with that."])
        (['Air scatters light.'], 1)
    """
    if cleaning != CLEANING:
        tidied = map(strip_preamble, texts) if cleaning == OLDER_CLEANING else texts
        return [text for text in tidied if text.strip()], 0
    cleaned = [text for text in (clean_passage(text, prompt) for text in texts) if text.strip()]
    kept = cleaned if keep_refusals else [text for text in cleaned if not is_refusal(text)]
    return kept, len(cleaned) - len(kept)
