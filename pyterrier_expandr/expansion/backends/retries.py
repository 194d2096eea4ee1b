"""When a failed server call is retried: which failures may be temporary, and how long to wait."""

from __future__ import annotations

import re
import time
from email.utils import mktime_tz, parsedate_tz
from random import random
from typing import Any

#: seconds before the second attempt; each further pause is twice as long, up to the longest
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0


def may_pass(error: Any) -> bool:
    """Whether a retry may succeed: a lost connection, a timeout, HTTP 408, 409, 429 or 5xx."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def pause_after(error: Any, number: int) -> float:
    """Seconds to wait after failed attempt `number` (from 0): what the server asks for, else 0.5, 1, 2, ... up to 60.

    Up to a quarter is added at random, so that calls that failed together are not repeated at the same moment.
    """
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = retry_after(headers.get("retry-after", ""))
    seconds = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) if asked is None else asked
    return seconds * (1 + random() / 4)


def retry_after(value: str) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or a date; None if it is not understood.

    Example:
        >>> retry_after("1.5"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), retry_after("soon")
        (1.5, 0.0, None)
    """
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    date = parsedate_tz(value)
    return None if date is None else max(mktime_tz(date) - time.time(), 0.0)
