import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pyterrier_expandr import RecordedExpander
from pyterrier_expandr.analysis import (
    alignment_distances,
    alignment_plot,
    bleu_against,
    bleu_plot,
    change_plot,
    expansion_lengths,
    gold_documents,
    lengths_plot,
    pair_vectors,
    per_query_change,
    transfer,
)
from pyterrier_expandr.collections import beir_folder, pocket


def frame(**texts):
    return pd.DataFrame({"qid": list(texts), "query_expansions": [list(cell) for cell in texts.values()]})


def labels_of(figure):
    axis = figure.axes[0]
    return axis.get_xlabel(), axis.get_ylabel()


def assert_saved(path):
    if path.suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


def assert_nothing_is_clipped(figure):
    """Every text lies within the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, box = canvas.get_renderer(), figure.bbox
    for text in figure.findobj(
        lambda artist: hasattr(artist, "get_text") and artist.get_text() and artist.get_visible()
    ):
        extent = text.get_window_extent(renderer)
        if extent.width and text.axes is not None and text.axes.axison:
            assert box.x0 - 1 <= extent.x0 and extent.x1 <= box.x1 + 1, text.get_text()
            assert box.y0 - 1 <= extent.y0 and extent.y1 <= box.y1 + 1, text.get_text()


# Alignment (Fig. 2)


def test_distances_are_those_computed_by_hand():
    queries = np.array([[1.0, 0.0], [0.0, 2.0]])
    documents = np.array([[3.0, 0.0], [1.0, 1.0]])
    row = alignment_distances({"one": (queries, documents)}).iloc[0]
    half = 1 - np.sqrt(0.5)
    assert row["own"] == pytest.approx((0 + half) / 2) and row["others"] == pytest.approx((half + 1) / 2)
    assert row["ratio"] == pytest.approx(row["own"] / row["others"])


def test_a_rotation_or_a_scale_changes_no_distance():
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(2, 6, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    numbers = alignment_distances({"a": (queries, documents), "b": (7 * queries @ turn, documents @ turn)})
    assert numbers["own"][0] == pytest.approx(numbers["own"][1])
    assert numbers["others"][0] == pytest.approx(numbers["others"][1])


@pytest.mark.parametrize(
    ("queries", "documents", "said"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), "same shape"),
        (np.ones((1, 2)), np.ones((1, 2)), "two pairs"),
        (np.zeros((2, 2)), np.ones((2, 2)), "zero, NaN"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "zero, NaN"),
    ],
)
def test_vectors_without_a_direction_are_refused(queries, documents, said):
    with pytest.raises(ValueError, match=f"'bad'.*{said}"):
        alignment_distances({"bad": (queries, documents)})


@pytest.mark.parametrize("settings", [1, 3, 4])
def test_alignment_plot(settings, tmp_path):
    rng = np.random.default_rng(1)
    documents = rng.normal(size=(10, 8))
    given = {f"setting {i}": (documents + (0.2 + i) * rng.normal(size=(10, 8)), documents) for i in range(settings)}
    path = tmp_path / "new folder" / "alignment.png"
    figure = alignment_plot(given, path=path)
    assert_saved(path)
    assert labels_of(figure) == ("t-SNE dimension 1 (no unit)", "t-SNE dimension 2 (no unit)")
    own = alignment_distances(given)["own"]
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [re.search(r"pairs (\S+),", axis.get_title()).group(1) for axis in drawn] == [f"{d:.3f}" for d in own]
    stars, circles = drawn[0].collections
    assert len(stars.get_offsets()) == len(circles.get_offsets()) == 10
    again = alignment_plot(given)
    np.testing.assert_array_equal(again.axes[0].collections[0].get_offsets(), stars.get_offsets())
    assert_nothing_is_clipped(figure)


def test_two_pairs_are_enough():
    assert len(alignment_plot({"few": (np.eye(2), np.eye(2)[::-1])}).axes) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        alignment_plot({})


def test_expansion_brings_queries_nearer_to_their_documents(encoder):
    pairs = gold_documents(pocket(), n=10)
    expander = RecordedExpander(pocket().expansions_path)
    numbers = alignment_distances(
        {
            "query": pair_vectors(pairs, encoder.query_encoder(), encoder.doc_encoder()),
            "ExpandR": pair_vectors(pairs, expander >> encoder.query_encoder(), encoder.doc_encoder()),
        }
    ).set_index("setting")
    assert numbers.loc["ExpandR", "own"] < 0.7 * numbers.loc["query", "own"]
    assert numbers.loc["ExpandR", "ratio"] < numbers.loc["query", "ratio"]


# Gold documents


def test_the_gold_document_is_the_best_judged_one():
    gold = gold_documents(pocket())
    assert len(gold) == 37 and (gold["label"] == 2).all() and gold["qid"].is_unique
    some = gold_documents(pocket(), n=5, seed=1)
    assert len(some) == 5 and not some.equals(gold_documents(pocket(), n=5, seed=2))
    assert some.equals(gold_documents(pocket(), n=5, seed=1))


def collection(folder, qrels):
    folder.mkdir(exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{row}\n" for row in qrels))
    return beir_folder(folder)


def test_gold_documents_of_odd_qrels(tmp_path):
    gold = gold_documents(collection(tmp_path, ["q1\td1\t1", "q1\td2\t2", "q2\td1\t0"]))
    assert gold[["qid", "docno", "text"]].values.tolist() == [["q1", "d2", "two"]]
    with pytest.raises(ValueError, match="no query .* relevant document"):
        gold_documents(collection(tmp_path, ["q1\td1\t0"]))
    with pytest.raises(ValueError, match=r"lacks documents .*\['d9'\]"):
        gold_documents(collection(tmp_path, ["q1\td9\t1"]))


# BLEU (Fig. 3)


def test_bleu_is_sacrebleu_s():
    from sacrebleu import corpus_bleu, sentence_bleu

    texts = ["the cat sat on the mat today", "a dog ran over the hill"]
    gold = ["the cat sat on the mat", "one dog ran over the green hill"]
    references = pd.DataFrame({"qid": ["1", "2"], "text": gold})
    row = bleu_against({"a": frame(**{"1": [texts[0]], "2": [texts[1]]})}, {"gold": references}).iloc[0]
    assert row["corpus_bleu"] == pytest.approx(corpus_bleu(texts, [gold]).score)
    single = [sentence_bleu(text, [want]).score for text, want in zip(texts, gold, strict=True)]
    assert row["sentence_bleu"] == pytest.approx(np.mean(single))
    assert row["queries"] == 2 and "version:" in row["signature"]


def test_a_text_has_as_many_references_as_its_query():
    expansions = {"a": frame(q1=["a red house by the sea"], q2=["the green tree of life"])}
    both = [("q1", "some words at all"), ("q1", "a red house by the sea"), ("q2", "the green tree of life")]
    references = pd.DataFrame(both, columns=["qid", "text"])
    assert bleu_against(expansions, {"gold": references})["corpus_bleu"][0] == pytest.approx(100)


def test_queries_without_a_reference_are_left_out_and_said(caplog):
    expansions = {"a": frame(q1=["a red house by the sea"], q2=["something else entirely"])}
    gold = pd.DataFrame({"qid": ["q1"], "text": ["a red house by the sea"]})
    row = bleu_against(expansions, {"gold": gold}).iloc[0]
    assert row["queries"] == 1 and row["corpus_bleu"] == pytest.approx(100)
    assert "1 queries have no reference" in caplog.text
    with pytest.raises(ValueError, match="no expanded query has a reference in 'gold'"):
        bleu_against(expansions, {"gold": gold.assign(qid="other")})
    with pytest.raises(ValueError, match=r"lack the columns \['text'\]"):
        bleu_against(expansions, {"gold": gold[["qid"]]})
    with pytest.raises(ValueError, match="no references"):
        bleu_against(expansions, {})
    with pytest.raises(ValueError, match="has an expansion"):
        bleu_against({"a": frame(q1=[" "])}, {"gold": gold})
    with pytest.raises(ValueError, match=r"'a' lack the columns \['query_expansions'\]"):
        bleu_against({"a": gold}, {"gold": gold})


def test_bleu_plot(tmp_path):
    rows = [
        (s, r, 10.0 * i + j) for i, s in enumerate(["vanilla", "ExpandR"]) for j, r in enumerate(["answers", "gold"])
    ]
    path = tmp_path / "bleu.svg"
    figure = bleu_plot(pd.DataFrame(rows, columns=["system", "against", "corpus_bleu"]), path=path)
    assert_saved(path)
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == [f"corpus BLEU (0 to 100)\nagainst {kind}" for kind in ("answers", "gold")]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["vanilla", "ExpandR"]
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[0, 10], [1, 11]]
    vanilla, expandr = (bar.get_hatch() for bar in figure.axes[0].patches)
    assert vanilla != expandr, "systems differ by hatch, not by colour alone"
    assert_nothing_is_clipped(figure)
    bleu_plot(pd.DataFrame(rows, columns=["system", "against", "corpus_bleu"]), path=tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == path.read_bytes()


# Change by query (Fig. 4)

SCORES = pd.DataFrame(
    [("base", "q1", 0.5), ("base", "q2", 0.9), ("base", "q3", 0.1), ("new", "q3", 0.1), ("new", "q2", 0.2), ("new", "q1", 1.0)],
    columns=["system", "qid", "value"],
).assign(measure="nDCG@10")  # fmt: skip


def test_change_is_sorted_from_gain_to_loss():
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": ["first", "second"]})
    change = per_query_change(SCORES, "new", "base", topics=topics)
    assert change["qid"].tolist() == ["q1", "q3", "q2"]
    assert change["change"].tolist() == pytest.approx([0.5, 0.0, -0.7])
    assert change["query"].tolist() == ["first", "", "second"]
    assert change[["baseline", "system"]].iloc[0].tolist() == [0.5, 1.0]


def test_change_keeps_collections_apart():
    two = pd.concat([SCORES.assign(collection="a"), SCORES.assign(collection="b", value=SCORES["value"] / 2)])
    change = per_query_change(two, "new", "base")
    assert change[["collection", "qid"]].values.tolist()[0] == ["a", "q1"] and len(change) == 6


def test_change_of_an_experiment():
    topics, qrels = pocket().get_topics(), pocket().get_qrels()
    run = topics.assign(docno="astro03", score=1.0, rank=0)
    ideal = qrels[qrels["label"] == 2].merge(topics, on="qid").assign(score=1.0, rank=0)
    scores = pt.Experiment([run, ideal], topics, qrels, ["ndcg_cut_10"], names=["one", "ideal"], perquery=True)
    change = per_query_change(scores, "ideal", "one", measure="ndcg_cut_10")
    assert len(change) == 37 and (change["change"] >= 0).all() and change["change"].max() > 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "neu"}, r"no system 'neu'.*\['base', 'new'\]"),
        ({"measure": "AP"}, r"no measure 'AP'.*\['nDCG@10'\]"),
        ({"per_query": SCORES.iloc[:5]}, "do not share 1 of their queries"),
        ({"per_query": SCORES.assign(value=float("nan"))}, "is NaN"),
    ],
)
def test_scores_that_cannot_be_compared(change, said):
    with pytest.raises(ValueError, match=said):
        per_query_change(**({"per_query": SCORES, "system": "new", "baseline": "base"} | change))


def test_change_plot(tmp_path):
    path = tmp_path / "change.png"
    figure = change_plot(per_query_change(SCORES, "new", "base"), system="new", baseline="base", path=path)
    assert_saved(path)
    x, y = labels_of(figure)
    assert "(rank)" in x and y == "change of nDCG@10\n(new minus base)"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["1 gain", "1 lose (1 equal)", "mean -0.067"]
    gains, losses = figure.axes[0].patches
    assert gains.get_data().values.tolist() == pytest.approx([0.5, 0, 0])
    assert losses.get_data().values.tolist() == pytest.approx([0, 0, -0.7]) and losses.get_hatch() != gains.get_hatch()
    assert_nothing_is_clipped(figure)


# Lengths (Fig. 5)


def test_lengths_in_words_and_in_tokens(tiny_llama):
    expansions = {"a": frame(q1=["three short words", "two words"], q2=["one"]), "b": frame(q1=["x y"])}
    words = expansion_lengths(expansions)
    assert words["length"].tolist() == [3, 2, 1, 2] and set(words["unit"]) == {"words"}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokens = expansion_lengths(expansions, tiny_llama)
    want = [len(tokenizer.tokenize(text)) for text in ["three short words", "two words", "one", "x y"]]
    assert tokens["length"].tolist() == want and tokens["unit"][0].startswith("tokens of ")
    assert expansion_lengths(expansions, tokenizer).equals(tokens)
    with pytest.raises(OSError):
        expansion_lengths(expansions, "no/such-tokenizer")


def test_lengths_plot(tmp_path):
    path = tmp_path / "lengths.svg"
    lengths = expansion_lengths(
        {"vanilla": frame(q1=["a b c"], q2=["a"]), "ExpandR": frame(q1=["a b"], q2=["a b c d"])}
    )
    figure = lengths_plot(lengths, path=path)
    assert_saved(path)
    assert labels_of(figure)[0] == "length of an expansion (words)"
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == ["vanilla\nmean 2.0, 2 texts", "ExpandR\nmean 3.0, 2 texts"]
    assert_nothing_is_clipped(figure)


# Transfer (Table 8)


def test_transfer_is_a_matrix_of_experiments(encoder, pocket_index):
    dataset, index = pocket(), pocket_index
    expander = RecordedExpander(dataset.expansions_path)
    fused = encoder.query_encoder() >> index.retriever(num_results=10)
    alone = encoder.query_encoder(fusion=0.0) >> index.retriever(num_results=10)
    topics, qrels = dataset.get_topics(), dataset.get_qrels()
    table = transfer({"query": None, "ExpandR": expander}, {"fused": fused, "alone": alone}, topics, qrels)
    assert table.index.tolist() == ["query", "ExpandR"] and table.columns.tolist() == ["fused", "alone"]
    wanted = pt.Experiment([fused, expander >> alone], topics, qrels, ["ndcg_cut_10"])["ndcg_cut_10"]
    assert table.loc["query", "fused"] == pytest.approx(wanted[0])
    assert table.loc["ExpandR", "alone"] == pytest.approx(wanted[1])
    assert table.loc["query", "alone"] == table.loc["query", "fused"], "without an expansion fusion does nothing"
    with pytest.raises(ValueError, match="at least one expander"):
        transfer({}, {"fused": fused}, topics, qrels)


# Files and missing packages


def test_a_picture_of_an_unknown_kind_is_refused_before_work(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .*\.svg.* got 'x.jpeg'"):
        change_plot(per_query_change(SCORES, "new", "base"), path="x.jpeg")


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("matplotlib", "change_plot(pd.DataFrame({'change': [1.0]}))"),
        ("sacrebleu", "bleu_against({}, {})"),
        ("sklearn", "alignment_plot({'a': (np.eye(2), np.eye(2))})"),
    ],
)
def test_a_missing_package_names_the_extra(missing, call):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import numpy as np, pandas as pd\n"
        "from pyterrier_expandr.analysis import *\n"
        f"try: {call}\n"
        "except ImportError as error: assert 'pip install \"pyterrier_expandr[' in str(error), error; print('said')"
    )
    assert "said" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_analyses_loads_nothing_heavy():
    code = (
        "import sys, pyterrier_expandr.analysis\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'sacrebleu', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
