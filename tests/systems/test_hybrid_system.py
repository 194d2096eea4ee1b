import shutil
import signal
import subprocess
import sys

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation import beir
from pyterrier_expandr.expansion.lexical import LexicalExpander
from pyterrier_expandr.retrieval.list_fusion import hybrid
from pyterrier_expandr.retrieval.sparse import LexicalIndex
from pyterrier_expandr.systems.expandr import ExpandR
from pyterrier_expandr.systems.settings import HybridSettings, TunedSettings
from tests.tiny_encoder import build_tiny_bert, open_tiny

DOCS = [{"docno": f"d{i}", "title": f"title {i}", "text": f"text of number {i}"} for i in range(1500)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    open_tiny(build_tiny_bert(folder / "bare")).save(str(folder / "bert"))
    return folder / "bert"


def encoder_of(bert):
    return ExpandREncoder(bert, device="cpu")


def recorded(**options):
    return RecordedExpander(pocket().expansions_path, **options)


@pytest.fixture(scope="module")
def built(bert, tmp_path_factory):
    """A hybrid over the pocket collection, built from a stream that can be read once."""
    index = tmp_path_factory.mktemp("built") / "pocket.faiss"
    return ExpandR(recorded(), encoder_of(bert), index, lexical="pisa").index(iter(list(pocket().get_corpus_iter())))


def ranking(system, k=5, **options):
    return system.pipeline(k, **options)(pocket().get_topics().head(6))[["qid", "docno", "score", "rank"]]


def test_the_pipeline_is_its_parts(built):
    words = LexicalExpander(5) >> built.lexical_index.retriever(1000)
    vectors = built.encoder.query_encoder() >> built.faiss_index.retriever(1000)
    expected = (recorded() >> hybrid(words, vectors, num_results=5))(pocket().get_topics().head(6))
    pd.testing.assert_frame_equal(ranking(built), expected[["qid", "docno", "score", "rank"]])
    alone = ranking(built.without_expansion())
    assert not alone.equals(ranking(built)) and built.without_expansion().hybrid == HybridSettings()
    assert built.lexical_index.folder.name == "pocket.faiss.pisa"
    assert [path.name for path in built.faiss_index.folder.parent.iterdir() if path.name.startswith(".")] == []
    assert sorted(built.lexical_index.docnos) == sorted(built.faiss_index.docnos.to_pylist())


def test_settings_decide_the_ranking(built):
    one, two = (
        ExpandR(built.expander, built.encoder, built.faiss_index, lexical="pisa", hybrid=h) for h in ("sum", "rrf")
    )
    assert one == built != two and hash(one) == hash(built) and "hybrid=HybridSettings(method='rrf'" in repr(two)
    assert ranking(two)["score"].max() < 0.02 < ranking(one)["score"].max()
    words = ExpandR(built.expander, built.encoder, built.faiss_index, lexical="pisa", hybrid=HybridSettings(weight=1.0))
    lexical = (recorded() >> LexicalExpander() >> built.lexical_index.retriever(5))(pocket().get_topics().head(6))
    assert ranking(words, 1)["docno"].tolist() == lexical[lexical["rank"] == 0]["docno"].tolist()
    assert one.describe()["hybrid"]["method"] == "sum" and one.describe()["lexical"]["engine"] == "pisa"


def test_self_matches_are_dropped_from_both_lists(built):
    topics = pocket().get_topics().head(3)
    system = built.without_expansion()
    plain = system.pipeline(3)(topics)
    topics["qid"] = plain[plain["rank"] == 0]["docno"].tolist()
    found = system.pipeline(2, drop_self_matches=True)(topics)
    assert found["docno"].tolist() == plain[plain["rank"] > 0]["docno"].tolist()


def test_one_call_of_the_llm_for_each_query_in_a_tree(built, tiny_llama):
    asked = []

    class Counting(HuggingFaceBackend):
        def stream(self, requests):
            asked.extend(request.messages[0]["content"] for request in requests)
            yield from super().stream(requests)

    backend = Counting(tiny_llama, device="cpu")
    # Each system has an expander of its own, and no two share a cache.
    systems = [
        ExpandR(LLMExpander(backend, max_new_tokens=4), built.encoder, built.faiss_index, lexical=lexical, hybrid=how)
        for lexical, how in ((None, None), ("pisa", "sum"), ("pisa", "rrf"))
    ]
    topics, qrels = pocket().get_topics().head(4), pocket().get_qrels()
    pipelines = [system.pipeline(10) for system in systems]
    with pytest.warns(UserWarning, match="truncated"):
        table = pt.Experiment(pipelines, topics, qrels, ["ndcg_cut_10"], plan="tree", validate="ignore")
    assert len(table) == 3 and len(asked) == len(set(asked)) == 4


def test_saved_and_loaded_as_one(built, bert, tmp_path):
    tuned = ExpandR(
        built.expander,
        built.encoder,
        built.faiss_index,
        lexical="pisa",
        hybrid=HybridSettings("zscore", 0.3, "mugi", 50),
    )
    tuned.save(tmp_path / "system")
    for loaded in (ExpandR.load(tmp_path / "system", device="cpu"), pt.Artifact.load(str(tmp_path / "system"))):
        assert loaded.hybrid == tuned.hybrid
        pd.testing.assert_frame_equal(ranking(loaded), ranking(tuned))
    shutil.move(tmp_path / "system", tmp_path / "moved")
    pd.testing.assert_frame_equal(ranking(ExpandR.load(tmp_path / "moved", device="cpu")), ranking(tuned))

    other = LexicalIndex(tmp_path / "other").index(DOCS[:5])
    shutil.rmtree(tmp_path / "moved" / "lexical")
    with pytest.raises(ValueError, match="lexical/.* is missing; save the system again, or copy"):
        ExpandR.load(tmp_path / "moved", device="cpu")
    shutil.copytree(other.folder, tmp_path / "moved" / "lexical")
    with pytest.raises(ValueError, match="is damaged: lexical/"):
        ExpandR.load(tmp_path / "moved", device="cpu")


def test_a_plain_system_is_written_as_older_releases_read_it(built, tmp_path):
    plain = ExpandR(None, built.encoder, built.faiss_index).save(tmp_path / "plain")
    assert '"format_version": 1' in (tmp_path / "plain" / "expandr_system.json").read_text()
    assert ExpandR.load(plain.path, device="cpu").hybrid is None


def test_parts_that_do_not_belong_together(built, bert, tmp_path):
    other = LexicalIndex(tmp_path / "other").index(DOCS[:5])
    with pytest.raises(ValueError, match="do not fit together: the lexical index .*other' has 5 documents"):
        ExpandR(None, built.encoder, built.faiss_index, lexical=other)
    with pytest.raises(ValueError, match="a hybrid needs a lexical index"):
        ExpandR(None, built.encoder, built.faiss_index, hybrid="sum")
    with pytest.raises(TypeError, match='lexical must be "pisa" or a LexicalIndex'):
        ExpandR(None, built.encoder, built.faiss_index, lexical="terrier")
    with pytest.raises(ValueError, match="method must be one of"):
        ExpandR(None, built.encoder, built.faiss_index, lexical="pisa", hybrid="max")
    # A corpus that is not the one that the first index was built from is noticed, and nothing is encoded twice.
    half = ExpandR(None, encoder_of(bert), tmp_path / "half", lexical="pisa")
    half.lexical_index.index(DOCS[:5])
    with pytest.raises(ValueError, match="only one of them has 'd5'"):
        half.index(DOCS[:6])


def test_what_is_not_built_is_refused(bert, tmp_path):
    system = ExpandR(None, encoder_of(bert), tmp_path / "i", lexical="pisa")
    with pytest.raises(FileNotFoundError, match="there is no lexical index"):
        system.pipeline()
    dense = ExpandR(None, encoder_of(bert), tmp_path / "i").index(DOCS[:5])
    half = ExpandR(None, encoder_of(bert), dense.faiss_index, lexical="pisa")
    with pytest.raises(ValueError, match="there is no lexical index .*: index documents first"):
        half.save(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert len(half.index(DOCS[:5]).pipeline(3).search("number 4")) == 3  # only what was missing is built


def test_a_document_that_cannot_be_indexed_is_told_before_any_is_encoded(bert, tmp_path):
    system = ExpandR(None, encoder_of(bert), tmp_path / "i", lexical="pisa")
    with pytest.raises(ValueError, match="one word without white space, got 'd 5'"):
        system.index([*DOCS[:5], {"docno": "d 5", "text": "x"}])
    with pytest.raises(KeyError, match="text"):
        system.index([*DOCS[:5], {"docno": "d5"}])
    assert list(tmp_path.iterdir()) == [] and system.encoder._model is None


STOPPING = """
import os, signal, sys
DOCS = [{"docno": f"d{i}", "title": f"title {i}", "text": f"text of number {i}"} for i in range(1500)]
folder, bert = sys.argv[1:]
def stopping(number):
    yield from DOCS[:number]
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = {
    "words": "from pyterrier_expandr.retrieval.sparse import LexicalIndex\n"
    "LexicalIndex(folder + '.pisa').index(stopping(700))",
    "vectors": "from pyterrier_expandr import ExpandR, ExpandREncoder\n"
    "from pyterrier_expandr.retrieval.sparse import LexicalIndex\n"
    "LexicalIndex(folder + '.pisa').index(DOCS)\n"
    "ExpandR(None, ExpandREncoder(bert, device='cpu'), folder, lexical='pisa').index(stopping(1200))",
}


@pytest.mark.parametrize("part", KILLED)
def test_a_build_that_was_killed_goes_on(bert, tmp_path, part):
    command = [sys.executable, "-c", STOPPING + KILLED[part], str(tmp_path / "i"), str(bert)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    system = ExpandR(None, encoder_of(bert), tmp_path / "i", lexical="pisa")
    assert system.lexical_index.built() == (part == "vectors") and not system.faiss_index.built()
    with pytest.raises(FileNotFoundError):
        system.pipeline().search("number")
    if part == "vectors":
        assert next(system.faiss_index.remaining(DOCS))["docno"] == "d1024"  # what was encoded is not encoded again
    system.index(iter(DOCS))
    whole = ExpandR(None, encoder_of(bert), tmp_path / "whole", lexical="pisa").index(DOCS)
    found = [each.pipeline(10).search("number 1234") for each in (system, whole)]
    pd.testing.assert_frame_equal(*found)
    assert found[0]["docno"][0] == "d1234" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("query", "passages", "words_found"),
    [
        ("???", ["...", " "], False),
        ("the of and", ["is the of"], False),
        ("light", [], True),
        ("sky", ['#combine:0=5("sky: +light -air^3', "\x00\ud800 \\ {}"], True),
        ("sky", ["light waves (of) air! " * 4800], True),
    ],
    ids=["no words", "stop words", "no passages", "operators", "100,000 characters"],
)
def test_odd_passages_pass_through_both_searches(built, query, passages, words_found):
    expander = RecordedExpander([{"query": query, "passages": passages}])
    system = ExpandR(expander, built.encoder, built.faiss_index, lexical=built.lexical_index)
    found = system.pipeline(7).search(query)
    assert len(found) == 7 and found["query"].tolist() == [query] * 7 and found["score"].notna().all()
    words = (expander >> LexicalExpander() >> built.lexical_index.retriever()).search(query)
    assert (len(words) > 0) == words_found
    if not words_found:
        dense = ExpandR(expander, built.encoder, built.faiss_index).pipeline(7).search(query)
        assert found["docno"].tolist() == dense["docno"].tolist()


def test_in_an_experiment_each_collection_gets_both_indexes(built, bert, tmp_path):
    system = ExpandR(recorded(), encoder_of(bert), lexical="pisa")
    assert system.lexical_index is None and system == built.without_index()
    systems = {"hybrid": system, "rrf": ExpandR(recorded(), encoder_of(bert), lexical="pisa", hybrid="rrf")}
    results = beir.experiment(systems, "pocket", tmp_path / "r", verbose=False)
    assert sorted(path.suffix for path in (tmp_path / "r" / ".indexes").iterdir()) == [".faiss", ".pisa"]  # shared
    theirs = pt.Experiment([built.pipeline()], pocket().get_topics(), pocket().get_qrels(), ["ndcg_cut_10"])
    values = results.means().query("measure == 'nDCG@10'").set_index("system")["value"]
    assert values["hybrid"] == pytest.approx(theirs["ndcg_cut_10"][0]) and values["hybrid"] != values["rrf"]
    first, second = results.cells["fingerprint"]
    assert first != second


def test_tuned_settings_are_opened(built, tmp_path):
    settings = TunedSettings(n=1, fusion=0.7, hybrid=HybridSettings(weight=0.2, repeats=3), source={"split": "train"})
    settings.save(tmp_path / "s.json")
    assert TunedSettings.load(tmp_path / "s.json") == settings
    system = built.with_settings(tmp_path / "s.json")
    assert (system.encoder.fusion, system.hybrid, system.expander.n) == (0.7, settings.hybrid, 1)
    assert (
        system.encoder._memo is built.encoder._memo and built.encoder.fusion == "average" and built.expander.n is None
    )
    words = LexicalExpander(3) >> built.lexical_index.retriever(1000)
    vectors = built.encoder.query_encoder(fusion=0.7) >> built.faiss_index.retriever(1000)
    expected = (recorded(n=1) >> hybrid(words, vectors, weight=0.2, num_results=5))(pocket().get_topics().head(6))
    pd.testing.assert_frame_equal(ranking(system), expected[["qid", "docno", "score", "rank"]])
    system.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(ranking(ExpandR.load(tmp_path / "saved", device="cpu")), ranking(system))
    assert built.with_settings(TunedSettings(n=0, hybrid=HybridSettings())) == built.without_expansion()

    plain = ExpandR(None, built.encoder, built.faiss_index)
    with pytest.raises(
        ValueError, match="this system is one without a lexical index, and these settings are of one with"
    ):
        plain.with_settings(settings)
    with pytest.raises(ValueError, match="these settings take 2 expansions of each query: give an expander, not None"):
        plain.with_settings(TunedSettings(n=2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "does not contain settings"),
        ("[]", "does not contain settings"),
        ('{"format_version": 9}', "format 9, this release reads up to 1: upgrade"),
        ('{"format_version": 1, "n": -1, "hybrid": null}', "n must be a whole number of 0 or more"),
        ('{"format_version": 1, "n": 1, "hybrid": {"weight": 2}}', "weight"),
        ('{"format_version": 1, "n": 1, "hybrid": null, "speed": 9}', "speed"),
    ],
)
def test_files_that_hold_no_settings(text, said, tmp_path):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        TunedSettings.load(tmp_path / "s.json")
    with pytest.raises(FileNotFoundError):
        TunedSettings.load(tmp_path / "nowhere.json")


def test_an_index_that_was_there_before_is_left_as_it_is(built):
    before = built.lexical_index.describe(), FaissIndex(built.faiss_index.path).describe()
    built.index(iter(()))
    assert (built.lexical_index.describe(), FaissIndex(built.faiss_index.path).describe()) == before
