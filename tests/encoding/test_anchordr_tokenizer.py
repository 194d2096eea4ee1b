"""The tokenizer against the reference's own output, and against files that cannot be right."""

import json
import logging
import pickle
import re
import shutil
from hashlib import sha256
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_expandr.encoding.models.anchordr_text import detach, pretokenize, split_specials
from pyterrier_expandr.encoding.models.anchordr_tokenizer import AnchorDRTokenizer, read_dictionary

FIXTURES = Path(__file__).parents[1] / "fixtures" / "anchordr"
NAMES = ("tokenizer", "tokenizer_cased")
TOKENIZERS = {name: AnchorDRTokenizer.from_pretrained(FIXTURES / name) for name in NAMES}
CASES = {name: json.loads((FIXTURES / name / "cases.json").read_text(encoding="utf-8")) for name in NAMES}


def text_of(name, text):
    return CASES[name]["long_text"] if text == "<LONG>" else text


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_string(name):
    tokenizer = TOKENIZERS[name]
    for case in CASES[name]["cases"]:
        text = text_of(name, case["text"])
        written = pretokenize(text, tokenizer.lower)
        if case["text"] == "<LONG>":
            written = sha256(written.encode()).hexdigest()
        found = {
            "pretokenized": written,
            "tokens": tokenizer.tokenize(text),
            "no_special": tokenizer(text, add_special_tokens=False)["input_ids"],
            **tokenizer(text),
        }
        for key in found.keys() & case.keys():
            assert found[key] == case[key], (key, text[:80])
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == case["no_special"]


@pytest.mark.parametrize("name", NAMES)
def test_recorded_truncations_batch_pair_and_decoding(name):
    tokenizer, cases = TOKENIZERS[name], CASES[name]
    for case in cases["truncation"]:
        found = tokenizer(text_of(name, case["text"]), truncation=True, max_length=case["max_length"])
        assert found["input_ids"] == case["input_ids"]
    batch = cases["batch"]
    texts = [text_of(name, text) for text in batch["texts"]]
    found = tokenizer(texts, padding=True, truncation=True, max_length=batch["max_length"])
    assert found["input_ids"] == batch["input_ids"]
    assert found["attention_mask"] == batch["attention_mask"]
    assert tokenizer(*cases["pair"]["texts"])["input_ids"] == cases["pair"]["input_ids"]
    ids = cases["decode"]["ids"]
    assert tokenizer.decode(ids) == cases["decode"]["text"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == cases["decode"]["text_skip_special"]
    specials = cases["specials"]
    assert (len(tokenizer), tokenizer.vocab_size) == (specials["len"], specials["vocab_size"])
    assert tokenizer.convert_tokens_to_ids("<sen000>") == specials["sen000"]


def test_a_batch_equals_its_texts_one_by_one():
    tokenizer = TOKENIZERS["tokenizer"]
    texts = [case["text"] for case in CASES["tokenizer"]["cases"]]
    assert tokenizer.token_ids(texts) == [tokenizer.token_ids([text])[0] for text in texts]
    tensors = tokenizer(texts, padding="max_length", truncation=True, max_length=40, return_tensors="pt")
    assert tensors["input_ids"].shape == tensors["attention_mask"].shape == (len(texts), 40)
    assert tokenizer([])["input_ids"] == []


def test_special_strings_inside_a_text():
    assert split_specials("  <s> ") == ["<s>"]
    assert split_specials(" a <pad>\n</s>b ") == [" a", "<pad>", "</s>", "b "]
    assert split_specials("") == [] and split_specials(" ") == [" "]
    tokenizer = TOKENIZERS["tokenizer"]
    assert tokenizer("<s> </s>")["input_ids"] == [0, 0, 2, 2]
    assert tokenizer(" ")["input_ids"] == [0, 3, 2]
    assert tokenizer("<S>")["input_ids"] != [0, 0, 2]


def guoke(text: str, lower: bool) -> str:
    """The pre-tokeniser once more, letter by letter and step by step as it is described."""
    marks = lambda c: (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or category(c)[0] == "P"  # noqa: E731
    text = text.strip().replace("``", '"').replace("''", '"')
    for old, new in (("\u2018\u2019\u00b4", "'"), ("\u201c\u201d", '"'), ("\u2013\u2014", "-")):
        for char in old:
            text = text.replace(char, new)
    words = []
    for word in text.split():
        if len(word) == 1 or all(map(marks, word)):
            words.append(word)
            continue
        core = word
        while marks(core[0]):
            core = core[1:]
        head, tail = word[: len(word) - len(core)], ""
        while marks(core[-1]):
            core, tail = core[:-1], core[-1] + tail
        words += [part for part in (head, core, tail) if part]
    text = " ".join(words)
    for clitic in ["s", "S", "m", "M", "d", "D", "t", "T", "ll", "re", "ve", "LL", "RE", "VE"]:
        text = re.sub(rf"' {clitic}\b", f"'{clitic} " if clitic in ("LL", "RE", "VE") else f"'{clitic}", text)
    text = " ".join(text.split())
    return text.lower() if lower else text


PIECES = [
    "'",
    "' s",
    "'s ",
    "s",
    " LL",
    "'RE",
    "' ve",
    "x",
    "``",
    "\u2019t",
    "\u201c",
    "\u2014",
    "(",
    "$3",
    "^",
    "\u3000",
    "\u0130",
]
PIECES += [
    "\u00bf",
    "\u2014'd",
    "\u0660",
    "\u0301",
    "\u05be",
    "_",
    "\u200b",
    "\U0001f600",
    "\n",
    "\x1c",
    "\u03a3",
    "\u00df",
    ".",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=14).map("".join)), st.booleans())
def test_the_pretokenizer_against_its_description(text, lower):
    assert pretokenize(text, lower) == guoke(text, lower)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("a", "a"), ("(", "("), ("...", "..."), ('"(a.b)!?', '"( a.b )!?'), ("¿qué?", "¿ qué ?"), ("-x", "- x")],
)
def test_punctuation_is_set_apart(word, expected):
    assert detach(word) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_tokenized(text):
    for tokenizer in TOKENIZERS.values():
        ids = tokenizer(text, truncation=True, max_length=16)["input_ids"]
        assert ids[0] == 0 and ids[-1] == 2 and len(ids) <= 16
        assert all(0 <= number < len(tokenizer) for number in ids)
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == tokenizer.token_ids([text])[0]
        assert bool(text) == bool(tokenizer.token_ids([text])[0])


def test_lone_surrogates_and_control_characters():
    tokenizer = TOKENIZERS["tokenizer"]
    assert tokenizer("a\ud800b")["input_ids"] == tokenizer("a\ufffdb")["input_ids"]
    assert tokenizer("a\x00b")["input_ids"][0] == 0


def test_saved_and_pickled_tokenizers_are_equal(tmp_path):
    texts = [case["text"] for case in CASES["tokenizer"]["cases"]]
    original = TOKENIZERS["tokenizer"]
    original.save_pretrained(tmp_path / "saved")
    for file in ("sp.model", "dict.txt"):
        assert (tmp_path / "saved" / file).read_bytes() == (FIXTURES / "tokenizer" / file).read_bytes()
    for copy in (AnchorDRTokenizer.from_pretrained(tmp_path / "saved"), pickle.loads(pickle.dumps(original))):
        assert copy(texts)["input_ids"] == original(texts)["input_ids"]


def test_pairs_lose_their_longer_side_first():
    tokenizer = TOKENIZERS["tokenizer"]
    long, short = tokenizer.token_ids(["hello world hello world", "dog"])
    cut = tokenizer("hello world hello world", "dog", truncation=True, max_length=4 + len(short) + 5)["input_ids"]
    assert cut == [0, *long[:5], 2, 2, *short, 2]


def test_arguments_that_make_no_sense():
    tokenizer = TOKENIZERS["tokenizer"]
    with pytest.raises(ValueError, match="3 or more, got 2"):
        tokenizer("a", truncation=True, max_length=2)
    with pytest.raises(ValueError, match="got None"):
        tokenizer("a", truncation=True)
    with pytest.raises(ValueError, match="needs a max_length"):
        tokenizer("a", padding="max_length")
    with pytest.raises(TypeError, match="NoneType"):
        tokenizer(["a", None])
    with pytest.raises(ValueError, match="2 first texts but 1"):
        tokenizer(["a", "b"], ["c"])


def test_dictionary_lines():
    assert read_dictionary("a 5\nb c 4\n\n") == ["<s>", "<pad>", "</s>", "<unk>", "a", "b c"]
    assert read_dictionary("a 5\na 4 #fairseq:overwrite\n")[4:] == ["a", "a"]
    for text, message in (
        ("a 5\na 4\n", "line 2: 'a' is repeated"),
        ("<pad> 4\n", "'<pad>' is repeated"),
        ("a 5\nb\n", "line 2: expected .*'b'"),
        ("a five\n", 'expected "symbol count"'),
    ):
        with pytest.raises(ValueError, match=message):
            read_dictionary(text)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURES / "tokenizer", tmp_path / "tokenizer"))


def test_a_dictionary_of_another_model_is_refused(folder):
    shutil.copy(FIXTURES / "tokenizer_cased" / "dict.txt", folder)
    with pytest.raises(ValueError, match="do not belong together: sp.model has no piece for"):
        AnchorDRTokenizer.from_pretrained(folder)


def test_a_dictionary_cut_short_is_refused(folder, caplog):
    lines = (folder / "dict.txt").read_text(encoding="utf-8").split("\n")
    (folder / "dict.txt").write_text("\n".join(lines[:20]), encoding="utf-8")
    with pytest.raises(ValueError, match="dict.txt lists only 20 of 157 pieces"):
        AnchorDRTokenizer.from_pretrained(folder)
    (folder / "dict.txt").write_text("\n".join([*lines[:149], "madeupword0000 0"]), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(AnchorDRTokenizer.from_pretrained(folder)) == 4 + 150 + 8
    assert "8 of sp.model's 157 pieces" in caplog.text


def test_sentinels_that_the_dictionary_has_are_not_added_again(folder):
    with (folder / "dict.txt").open("a", encoding="utf-8") as file:
        file.write("<sen001> 0\n")
    tokenizer = AnchorDRTokenizer.from_pretrained(folder)
    original = TOKENIZERS["tokenizer"]
    assert len(tokenizer) == len(original)
    first, second = tokenizer.convert_tokens_to_ids(["<sen000>", "<sen001>"])
    assert (first, second) == (original.convert_tokens_to_ids("<sen000>") + 1, first - 1)


@pytest.mark.parametrize("file", ["sp.model", "dict.txt", "tokenizer_config.json"])
def test_missing_and_damaged_files(folder, file):
    (folder / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"cannot be read|is not valid JSON"):
        AnchorDRTokenizer.from_pretrained(folder)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"no AnchorDR tokenizer: {file} missing"):
        AnchorDRTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "change", [{"lower": None}, {"lower": "yes"}, {"n_sentinel_tokens": -1}, {"bos_token": "[CLS]"}]
)
def test_a_configuration_that_says_something_else(folder, change):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="must set lower|AnchorDR's is"):
        AnchorDRTokenizer.from_pretrained(folder)
