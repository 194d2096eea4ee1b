"""All steps of cleaning together: from a text as it was written to the passage in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .echoes import without_echo
from .endings import without_closing
from .markup import without_markup, without_wrapping
from .preambles import strip_preamble
from .refusals import is_refusal
from .repetition import without_repetition

#: The name of this cleaning, recorded with every result; a change of what it gives needs a new number.
CLEANING = "clean_passage/1"

#: What systems were recorded with before: introductions are taken off, nothing else, and refusals stay.
OLDER_CLEANING = "strip_preamble"


def clean_passage(text: str, prompt: str | None = None) -> str:
    """The passage in `text`, without what a chat model puts around it.

    Taken off: leftovers of the chat template, the prompt repeated, introductions (see `strip_preamble`), tags and a
    code fence around all of it, a JSON object with one text, closing offers and notes about the text itself, and the
    copies of sentences that a model repeated until its limit. Nothing is ever added, and a text that holds nothing else
    comes back exactly as it was. Applying it twice gives the same as once.

    Args:
        text: what the model wrote.
        prompt: the user message that it answered; without it the named prompts are looked for.

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
    """The name of a cleaning as results record it: of `clean_passage` for True, None for False; a name stays.

    Raises:
        ValueError: a name of no cleaning of this release.

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
    """What results record of a cleaning; only this one looks for refusals, and records of others stay as they were.

    Example:
        >>> cleaning_record("strip_preamble", False)
        {'cleaning': 'strip_preamble'}
    """
    return {"cleaning": cleaning, **({"keep_refusals": keep_refusals} if cleaning == CLEANING else {})}


def passages_in(
    texts: Iterable[str], prompt: str | None = None, *, cleaning: str | None = CLEANING, keep_refusals: bool = False
) -> tuple[list[str], int]:
    """The cleaned passages in `texts`, without blank ones, and the number of refusals that were left out.

    Args:
        texts: what the model wrote.
        prompt: see `clean_passage`.
        cleaning: a name from `cleaning_name`; under another name than this cleaning's, refusals stay.
        keep_refusals: leave nothing out but blank texts.

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
