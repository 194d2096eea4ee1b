"""The vectors that an encoder remembers, so that each text is encoded once for many fusions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

#: number of vectors remembered; of more, those that were needed longest ago are forgotten
MEMO_SIZE = 65_536


class Memory(OrderedDict[tuple[str, str], np.ndarray]):
    """Vectors (d,) by side and text.

    Example:
        >>> Memory().vectors("query", ["sky"], lambda texts: np.ones((len(texts), 2))).shape
        (1, 2)
    """

    def vectors(self, side: str, texts: Sequence[str], encode: Callable[[list[str]], np.ndarray]) -> np.ndarray:
        """Vectors (n, d) of `texts`; those that are not remembered are encoded together, each once."""
        known = {text: self[side, text] for text in dict.fromkeys(texts) if (side, text) in self}
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            known.update(zip(fresh, encode(fresh), strict=True))
        for text, vector in known.items():
            self[side, text] = vector
            self.move_to_end((side, text))
        while len(self) > MEMO_SIZE:
            self.popitem(last=False)
        return np.stack([known[text] for text in texts])
