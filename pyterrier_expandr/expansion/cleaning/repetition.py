"""Removes what a model repeats, sentence by sentence, until it reaches its limit."""

from __future__ import annotations

from .sentences import sentences

#: maximum length of a loop, in sentences
PERIOD = 4

#: minimum number of characters to remove: three short exclamations, or a refrain, are style
LEAST = 150


def without_repetition(text: str) -> str:
    """`text` up to the first copy of the one to four sentences that it repeats at least three times until its end.

    A last copy that is cut off is removed too.

    Example:
        >>> without_repetition("Air scatters light. " + "The sky is blue for this reason alone. " * 7 + "The sky is")
        'Air scatters light. The sky is blue for this reason alone.'
    """
    found = sentences(text)
    partial = found.pop().words if found and not found[-1].finished else ""
    words = [sentence.words for sentence in found]
    for period in range(1, PERIOD + 1):
        repeated = 0  # number of sentences at the end that each equal the one `period` before
        while repeated + period < len(words) and words[-1 - repeated] == words[-1 - repeated - period]:
            repeated += 1
        # Two whole loops in addition to the first; an unfinished sentence must continue the loop.
        if repeated >= 2 * period and words[-period].startswith(partial):
            end = found[len(found) - repeated - 1].end
            return text[:end] if len(text) - end >= LEAST else text
    return text
