"""AnchorDR's tokenizer: sentencepiece pieces under the ids of a fairseq dictionary."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import BatchEncoding

from ...common.frames import without_surrogates
from .anchordr_checkpoint import find_file, read_json
from .anchordr_text import SPECIAL_TOKENS, pretokenize, split_specials

logger = logging.getLogger(__name__)

#: files that a tokenizer folder must have; it may also have special_tokens_map.json, which adds nothing
FILES = ("sp.model", "dict.txt", "tokenizer_config.json")
BOS, PAD, EOS, UNK = range(4)
_OVERWRITE = "#fairseq:overwrite"
_FILLER = re.compile(r"madeupword\d+")  # fairseq pads its dictionaries with such symbols


def read_dictionary(text: str, source: object = "dict.txt") -> list[str]:
    """The symbols in id order: the four special ones, then those of the lines "symbol count".

    Raises:
        ValueError: a line without a count, or a symbol that occurs twice without fairseq's mark for it.
    """
    symbols, known = list(SPECIAL_TOKENS), set(SPECIAL_TOKENS)
    for number, line in enumerate(text.split("\n"), 1):
        if not (line := line.rstrip()):
            continue
        symbol, _, count = line.rpartition(" ")
        overwrite = count == _OVERWRITE
        if overwrite:
            symbol, _, count = symbol.rpartition(" ")
        if not symbol or not count.isdecimal():
            raise ValueError(f'{source}, line {number}: expected "symbol count", got {line!r}')
        if symbol in known and not overwrite:
            raise ValueError(f"{source}, line {number}: {symbol!r} is repeated, so its id is ambiguous")
        known.add(symbol)
        symbols.append(symbol)
    return symbols


class AnchorDRTokenizer:
    """Text -> ids as in the reference tokenizer, in batches; called like a tokenizer of transformers.

    Args:
        sp_model: the content of sp.model in bytes.
        dictionary: the text of dict.txt.
        lower: lower-case texts before sentencepiece.
        n_sentinel_tokens: number of symbols `<sen000>` ... that follow those of the dictionary.

    Raises:
        ValueError: the dictionary cannot be read, or belongs to another sentencepiece model.

    Source: the description of the reference tokenizer; fairseq is not needed.
    """

    model_input_names = ("input_ids", "attention_mask")
    padding_side = truncation_side = "right"
    bos_token, pad_token, eos_token, unk_token = SPECIAL_TOKENS
    cls_token, sep_token, mask_token = bos_token, eos_token, None
    bos_token_id, pad_token_id, eos_token_id, unk_token_id = BOS, PAD, EOS, UNK
    cls_token_id, sep_token_id = BOS, EOS

    def __init__(self, sp_model: bytes, dictionary: str, *, lower: bool, n_sentinel_tokens: int = 0) -> None:
        from sentencepiece import SentencePieceProcessor

        self.lower, self.n_sentinel_tokens = lower, n_sentinel_tokens
        self._sp_model, self._dictionary = sp_model, dictionary
        try:
            self._pieces = SentencePieceProcessor(model_proto=sp_model)
        except Exception as error:
            raise ValueError(f"sp.model is not a sentencepiece model: {error}") from error
        self._symbols = read_dictionary(dictionary)
        sentinels = [f"<sen{number:03d}>" for number in range(n_sentinel_tokens)]
        self._check_agreement(sentinels)
        known = set(self._symbols)
        self._symbols += [name for name in sentinels if name not in known]
        self._index = {symbol: number for number, symbol in enumerate(self._symbols)}  # the last of repeated symbols
        names = [self._pieces.id_to_piece(number) for number in range(len(self._pieces))]
        self._id_of_piece = [self._index.get(name, UNK) for name in names]
        self._id_of_piece[self._pieces.unk_id()] = UNK

    def _check_agreement(self, sentinels: list[str]) -> None:
        """Raise ValueError if dictionary and sentencepiece model cannot belong together."""
        pieces = self._pieces
        every = {pieces.id_to_piece(i): pieces.is_control(i) or pieces.is_unknown(i) for i in range(len(pieces))}
        ordinary = {piece for piece, special in every.items() if not special}
        named = {symbol for symbol in self._symbols if not _FILLER.fullmatch(symbol)} - {*SPECIAL_TOKENS, *sentinels}
        if foreign := sorted(named - every.keys()):
            raise ValueError(
                f"dict.txt and sp.model do not belong together: sp.model has no piece for {len(foreign)} of "
                f"{len(named)} symbols, e.g. {foreign[:5]}. Take both files from the same checkpoint."
            )
        missing = len(ordinary - named)
        if 2 * missing > len(ordinary):
            raise ValueError(
                f"dict.txt and sp.model do not belong together: dict.txt lists only {len(ordinary) - missing} of "
                f"{len(ordinary)} pieces. Take both files from the same checkpoint."
            )
        if missing:
            logger.warning("%d of sp.model's %d pieces are not in dict.txt: they become <unk>", missing, len(ordinary))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, revision: str | None = None) -> AnchorDRTokenizer:
        """The tokenizer of a folder or hub model. Raises ValueError if files are missing or cannot be read."""
        name = str(name_or_folder)
        paths = {file: find_file(name, file, revision) for file in FILES}
        if absent := [file for file, path in paths.items() if path is None]:
            raise ValueError(
                f"{name!r} has no AnchorDR tokenizer: {', '.join(absent)} missing. Copy the tokenizer's files "
                f"({', '.join(FILES)}) to the folder of the weights, or pass a tokenizer."
            )
        sp_model, dictionary, settings = (path for path in paths.values() if path is not None)
        config = read_json(settings)
        sentinels = config.get("n_sentinel_tokens", 0)
        if not isinstance(config.get("lower"), bool) or not isinstance(sentinels, int) or sentinels < 0:
            raise ValueError(
                f"{settings} must set lower (true or false), and n_sentinel_tokens, if present, must be 0 or more"
            )
        for role, token in zip(("bos", "pad", "eos", "unk"), SPECIAL_TOKENS, strict=True):
            given = config.get(f"{role}_token", token)
            if (given.get("content") if isinstance(given, dict) else given) != token:
                raise ValueError(f"{settings}: {role}_token is {given!r}, but AnchorDR's is {token!r}")
        try:
            text = dictionary.read_text(encoding="utf-8")
            return cls(sp_model.read_bytes(), text, lower=config["lower"], n_sentinel_tokens=sentinels)
        except ValueError as error:
            raise ValueError(f"the tokenizer of {name!r} cannot be read: {error}") from error

    def save_pretrained(self, folder: str | Path, **_: Any) -> tuple[str, ...]:
        """Write the tokenizer's files and return their paths; `from_pretrained` and the reference can read them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        specials = {
            f"{role}_token": getattr(self, f"{role}_token") for role in ("bos", "cls", "eos", "pad", "sep", "unk")
        }
        config = {
            **specials,
            "lower": self.lower,
            "n_sentinel_tokens": self.n_sentinel_tokens,
            "tokenizer_class": "FairseqT5Tokenizer",
        }
        (folder / "sp.model").write_bytes(self._sp_model)
        (folder / "dict.txt").write_bytes(self._dictionary.encode("utf-8"))
        for file, content in (("tokenizer_config.json", config), ("special_tokens_map.json", specials)):
            (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return tuple(str(folder / file) for file in (*FILES, "special_tokens_map.json"))

    def __len__(self) -> int:
        return len(self._symbols)

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self._symbols)

    def get_vocab(self) -> dict[str, int]:
        """The id of each symbol."""
        return dict(self._index)

    def _parts(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"a text must be a string, got {type(text).__name__}: {text!r:.80}")
        return split_specials(text if text.isascii() else without_surrogates(text))

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text; pieces that are missing in the dictionary are kept as written."""
        pieces: list[str] = []
        for part in self._parts(text):
            if part in SPECIAL_TOKENS:
                pieces.append(part)
            else:
                pieces += self._pieces.encode(pretokenize(part, self.lower), out_type=str) or [""]
        return pieces

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens and without truncation; one call for the whole batch."""
        parts = [self._parts(text) for text in texts]
        plain = [pretokenize(part, self.lower) for own in parts for part in own if part not in SPECIAL_TOKENS]
        encoded = iter(self._pieces.encode(plain, out_type=int) if plain else [])
        of_piece, rows = self._id_of_piece, []
        for own in parts:
            row: list[int] = []
            for part in own:
                if part in SPECIAL_TOKENS:
                    row.append(SPECIAL_TOKENS.index(part))
                else:  # a text of only characters that the normaliser drops is unknown, not empty
                    row += [of_piece[piece] for piece in next(encoded)] or [UNK]
            rows.append(row)
        return rows

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length"] = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """`input_ids` and `attention_mask` of one text or a batch: `<s> A </s>`, or `<s> A </s></s> B </s>` for a pair.

        Args:
            text: a text, or a list of texts (then lists are returned).
            text_pair: the second text of each pair.
            add_special_tokens: put `<s>` and `</s>` around the text.
            padding: pad on the right, to the longest text of the batch (True) or to `max_length`.
            truncation: keep the first `max_length` tokens, including the special ones.
            max_length: at least 3, or at least 5 for pairs.
            return_tensors: "pt" or "np"; None returns lists.

        Raises:
            TypeError: a text is not a string. ValueError: `max_length` leaves no room for a token of the text.

        Example:
            >>> tokenizer = AnchorDRTokenizer.from_pretrained(folder)  # doctest: +SKIP
            >>> tokenizer(["a text", "another"], padding=True, return_tensors="pt")["input_ids"]  # doctest: +SKIP
        """
        single = isinstance(text, str)
        first = self.token_ids([text] if isinstance(text, str) else text)
        second: list[list[int]] | None = None
        if text_pair is not None:
            second = self.token_ids([text_pair] if isinstance(text_pair, str) else text_pair)
            if len(second) != len(first):
                raise ValueError(f"got {len(first)} first texts but {len(second)} second texts")
        around = len(self._around([], None if second is None else [], add_special_tokens))
        if truncation:
            if max_length is None or max_length < around + 1:
                raise ValueError(f"truncation needs a max_length of {around + 1} or more, got {max_length}")
            first, second = _truncate(first, second, max_length - around)
        others: Sequence[list[int] | None] = second if second is not None else [None] * len(first)
        pairs = zip(first, others, strict=True)
        rows = [self._around(*pair, add_special_tokens) for pair in pairs]
        width = max(map(len, rows), default=0) if padding in (True, "longest") else 0
        if padding == "max_length":
            if max_length is None:
                raise ValueError('padding="max_length" needs a max_length')
            width = max_length
        masks = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        rows = [row + [PAD] * (width - len(row)) for row in rows]
        if single and return_tensors is None:
            return BatchEncoding({"input_ids": rows[0], "attention_mask": masks[0]})
        return BatchEncoding({"input_ids": rows, "attention_mask": masks}, tensor_type=return_tensors)

    @staticmethod
    def _around(first: list[int], second: list[int] | None, add_special_tokens: bool) -> list[int]:
        if not add_special_tokens:
            return first + (second or [])
        return [BOS, *first, EOS] if second is None else [BOS, *first, EOS, EOS, *second, EOS]

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        """Only the ids of one text or pair; the options are those of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> Any:
        """The id of a symbol, or a list of ids; that of `<unk>` for symbols missing in the dictionary."""
        return self._index.get(tokens, UNK) if isinstance(tokens, str) else [self._index.get(t, UNK) for t in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The symbol of an id, or a list of symbols."""
        return self._symbols[ids] if isinstance(ids, int) else [self._symbols[int(number)] for number in ids]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; special tokens appear in it as written unless they are skipped."""
        kept = [int(number) for number in ids if not (skip_special_tokens and int(number) <= UNK)]
        return "".join(self.convert_ids_to_tokens(kept)).replace("\u2581", " ").strip()

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def __repr__(self) -> str:
        return f"AnchorDRTokenizer({len(self)} symbols, lower={self.lower})"


def _truncate(
    first: list[list[int]], second: list[list[int]] | None, room: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Both sides cut to `room` tokens in total; the longer side is cut first, the second one if they are equal."""
    if second is None:
        return [row[:room] for row in first], None
    cut = [([*a], [*b]) for a, b in zip(first, second, strict=True)]
    for a, b in cut:
        while len(a) + len(b) > room:
            (a if len(a) > len(b) else b).pop()
    return [a for a, _ in cut], [b for _, b in cut]
