import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.common.records.manifest import sealed
from pyterrier_expandr.evaluation import beir
from pyterrier_expandr.systems.expandr import ExpandR
from pyterrier_expandr.systems.store import ENCODER, INDEX, RECORD
from tests.tiny import build_tiny_llama
from tests.tiny_encoder import build_tiny_bert, open_tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Two saved encoders with one architecture and other weights."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed in (0, 1):
        open_tiny(build_tiny_bert(folder / f"bare{seed}", seed=seed)).save(str(folder / f"bert{seed}"))
    return folder


def encoder_of(bert, seed=0, **options):
    return ExpandREncoder(bert / f"bert{seed}", device="cpu", **options)


def recorded():
    return RecordedExpander(pocket().expansions_path)


@pytest.fixture(scope="module")
def built(bert, tmp_path_factory):
    """A system over the pocket collection."""
    index = tmp_path_factory.mktemp("built") / "pocket.faiss"
    return ExpandR(recorded(), encoder_of(bert), index).index(pocket().get_corpus_iter())


def ranking(system, **options):
    found = system.pipeline(5, **options).transform(pocket().get_topics().head(6))
    return found[["qid", "docno", "score", "rank"]]


def test_the_pipeline_is_its_parts(built):
    parts = built.expander >> built.encoder.query_encoder() >> built.faiss_index.retriever(5)
    expected = parts.transform(pocket().get_topics().head(6))
    pd.testing.assert_frame_equal(ranking(built), expected[["qid", "docno", "score", "rank"]])
    assert not ranking(built.without_expansion()).equals(ranking(built))
    assert len(built.faiss_index) == 242
    assert pt.inspect.transformer_outputs(built.pipeline(), ["qid", "query"])


def test_self_matches_are_searched_one_deeper(built):
    topics = pocket().get_topics().head(3)
    first = built.pipeline(3).transform(topics)
    topics["qid"] = first[first["rank"] == 0]["docno"].tolist()  # as in Quora: each query is its own best match
    system = built.without_expansion()
    plain = system.pipeline(3).transform(topics)
    topics["qid"] = plain[plain["rank"] == 0]["docno"].tolist()
    found = system.pipeline(2, drop_self_matches=True).transform(topics)
    assert not (found["qid"] == found["docno"]).any() and found["rank"].tolist() == [0, 1] * 3
    assert found["docno"].tolist() == plain[plain["rank"] > 0]["docno"].tolist()


def test_equality_and_repr(built, bert):
    same = ExpandR(recorded(), encoder_of(bert), FaissIndex(built.faiss_index.path))
    assert same == built and hash(same) == hash(built) and built != built.without_expansion()
    assert repr(built.without_expansion()).startswith("ExpandR(None, ExpandREncoder(") and "at 0x" not in repr(built)


def test_an_interrupted_index_goes_on(bert, tmp_path):
    system = ExpandR(None, encoder_of(bert), tmp_path / "i")
    docs = [{"docno": f"d{i}", "text": f"text {i}"} for i in range(1500)]

    def stopping():
        yield from docs[:1200]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.index(stopping())
    assert next(system.faiss_index.remaining(docs))["docno"] == "d1024"
    assert len(system.index(docs).faiss_index) == 1500


def test_saved_and_loaded(built, tmp_path):
    built.save(tmp_path / "system")
    loaded = ExpandR.load(tmp_path / "system", device="cpu")
    pd.testing.assert_frame_equal(ranking(loaded), ranking(built))
    ours, theirs = built.describe(), loaded.describe()
    assert loaded.path == tmp_path / "system" and ours["expander"] == theirs["expander"]
    assert ours["index"] == theirs["index"] and ours["encoder"]["encoder"] == theirs["encoder"]["encoder"]
    assert ExpandR.load(tmp_path / "system", device="cpu", expansion=False) != loaded
    record = json.loads((tmp_path / "system" / RECORD).read_text())
    assert record["expander"]["kind"] == "recorded" and record["expander"]["cleaning"] == "clean_passage/1"
    assert len(record["encoder"]["fingerprint"]["sha256"]) == 64 and record["index"]["files"]
    assert json.loads((tmp_path / "system" / "pt_meta.json").read_text())["format"] == "expandr"
    with pytest.raises(FileExistsError, match="choose another folder"):
        built.save(tmp_path / "system")
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "system", moved)
    pd.testing.assert_frame_equal(ranking(ExpandR.load(moved, device="cpu")), ranking(built))


@pytest.mark.parametrize("options", [{"keep_refusals": True}, {"clean": False}, {"clean": "strip_preamble"}])
def test_the_cleaning_is_saved(options, built, tmp_path):
    lines = [{"qid": "1", "query": "sky", "passages": ["Answer: Air scatters light.", "I can't help with that."]}]
    system = ExpandR(RecordedExpander(lines, on_missing="query-only", **options), built.encoder, built.faiss_index)
    system.save(tmp_path / "system")
    loaded = ExpandR.load(tmp_path / "system", device="cpu").expander
    assert loaded == system.expander and loaded.describe() == system.expander.describe()
    sky = pd.DataFrame({"qid": ["1"], "query": ["sky"]})
    first = "Answer: Air scatters light." if options == {"clean": False} else "Air scatters light."
    assert loaded.transform(sky)["query_expansions"][0] == [first, "I can't help with that."]


def test_pyterrier_opens_it_by_its_type(built, tmp_path):
    built.save(tmp_path / "system")
    opened = pt.Artifact.load(str(tmp_path / "system"))
    assert isinstance(opened, ExpandR)
    pd.testing.assert_frame_equal(ranking(opened), ranking(built))


def test_a_package_from_an_address(built, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
    built.save(tmp_path / "system")
    (tmp_path / "www").mkdir()
    built.build_package(str(tmp_path / "www" / "system.tar.lz4"), verbose=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        loaded = ExpandR.from_url(f"http://127.0.0.1:{server.server_port}/system.tar.lz4", device="cpu")
        server.shutdown()
    pd.testing.assert_frame_equal(ranking(loaded), ranking(built))


def test_an_llm_is_named_and_checked(built, tmp_path, tiny_llama):
    options = {"prompt": "q2e", "n": 2, "max_new_tokens": 4, "temperature": 0.7, "seed": 3}
    expander = LLMExpander(HuggingFaceBackend(tiny_llama, device="cpu"), cache=tmp_path / "c.sqlite", **options)
    system = ExpandR(expander, built.encoder, built.faiss_index)
    system.save(tmp_path / "system")
    loaded = ExpandR.load(tmp_path / "system", device="cpu", cache=tmp_path / "c.sqlite")
    assert loaded.expander.describe() == expander.describe()
    topics = pocket().get_topics().head(2)
    with pytest.warns(UserWarning, match="truncated"):
        texts = [s.expander.transform(topics)["query_expansions"].tolist() for s in (system, loaded)]
    assert texts[0] == texts[1] and len(texts[0][0]) <= 2

    build_tiny_llama(tmp_path / "other", seed=1)
    other = HuggingFaceBackend(tmp_path / "other", device="cpu")
    with pytest.raises(ValueError, match="the LLM are not those that were saved: the system has .*, found is"):
        ExpandR.load(tmp_path / "system", device="cpu", backend=other)
    record = json.loads((tmp_path / "system" / RECORD).read_text())
    record["expander"]["place"]["model"] = "/nowhere/llm"
    (tmp_path / "system" / RECORD).write_text(json.dumps(sealed(record)))
    with pytest.raises(ValueError, match="not at '/nowhere/llm'.*give it with backend="):
        ExpandR.load(tmp_path / "system", device="cpu")
    same = HuggingFaceBackend(tiny_llama, device="cpu")
    assert ExpandR.load(tmp_path / "system", device="cpu", backend=same).expander.backend == same
    assert ExpandR.load(tmp_path / "system", device="cpu", expansion=False).expander is None


def test_parts_that_do_not_belong_together(built, bert, tmp_path):
    said = "do not fit together: the index .*pocket.faiss' was made by .*bert0.*, the encoder is .*bert1"
    with pytest.raises(ValueError, match=said):
        ExpandR(None, encoder_of(bert, seed=1), built.faiss_index)
    with pytest.raises(ValueError, match=r"\(pooling mean\), the encoder is .* \(pooling cls\)"):
        ExpandR(None, encoder_of(bert, pooling="cls"), built.faiss_index)
    with pytest.raises(ValueError, match=r"\(normalize True\), the encoder is .* \(normalize False\)"):
        ExpandR(None, encoder_of(bert, normalize=False), built.faiss_index)

    built.save(tmp_path / "system")
    other = ExpandR(None, encoder_of(bert, seed=1), tmp_path / "other").index(pocket().get_corpus_iter())
    shutil.rmtree(tmp_path / "system" / INDEX)
    shutil.copytree(other.faiss_index.path, tmp_path / "system" / INDEX)
    with pytest.raises(
        ValueError, match=r"not the one that was saved: it was made by .*bert1.*the system has one by .*bert0"
    ):
        ExpandR.load(tmp_path / "system")


def test_an_encoder_that_was_changed_inside(built, tmp_path):
    built.save(tmp_path / "system")
    config = tmp_path / "system" / ENCODER / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(
        ValueError, match=r"damaged: encoder/config.json has \d+ bytes instead of \d+; save the system again"
    ):
        ExpandR.load(tmp_path / "system")


def test_texts_that_were_changed_inside(built, tmp_path):
    built.save(tmp_path / "system")
    file = tmp_path / "system" / "expansions.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    with pytest.raises(ValueError, match=r"damaged: expansions.jsonl has \d+ bytes"):
        ExpandR.load(tmp_path / "system")


def test_what_cannot_be_saved(built, bert, tmp_path):
    index = FaissIndex(tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="there is no index"):
        ExpandR(None, encoder_of(bert), index).save(tmp_path / "s")
    with pytest.raises(ValueError, match="has no index"):
        ExpandR(None, encoder_of(bert)).save(tmp_path / "s")
    with pytest.raises(ValueError, match="fusion that is a function"):
        ExpandR(None, encoder_of(bert, fusion=lambda q, e: q), built.faiss_index).save(tmp_path / "s")
    memory = ExpandREncoder(open_tiny(str(bert / "bare0")), device="cpu")
    with pytest.raises(ValueError, match="was built in memory"):
        ExpandR(None, memory, index).index([{"docno": "a", "text": "b"}]).save(tmp_path / "s")
    rewriter = pt.apply.generic(lambda frame: frame.assign(query_expansions=[[]] * len(frame)))
    with pytest.raises(TypeError, match="only an LLMExpander or a RecordedExpander can be saved"):
        ExpandR(rewriter, built.encoder, built.faiss_index).save(tmp_path / "s")
    assert not (tmp_path / "s").exists() and not list(tmp_path.glob(".part*"))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((3, "e", None), "expander must be"),
        ((None, "e", None), "encoder must be"),
        ((None, None, None), "encoder must"),
    ],
)
def test_parts_of_the_wrong_kind(parts, said):
    with pytest.raises(TypeError, match=said):
        ExpandR(*parts)


def test_folders_that_hold_no_system(tmp_path, bert):
    with pytest.raises(TypeError, match="index must be"):
        ExpandR(None, encoder_of(bert), 3)
    with pytest.raises(FileNotFoundError, match="holds no ExpandR system"):
        ExpandR.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder './nowhere'"):
        ExpandR.load("./nowhere")
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        ExpandR.load(tmp_path)
    (tmp_path / RECORD).write_text('{"format_version": 3}')
    with pytest.raises(ValueError, match="format 3, this release reads up to 2: upgrade"):
        ExpandR.load(tmp_path)


def test_an_unreachable_hub_is_said(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="there is no folder 'owner/name', and it cannot be fetched from the hub"):
        ExpandR.load("owner/name")


def test_in_an_experiment_every_collection_gets_an_index(built, bert, tmp_path):
    system = ExpandR(recorded(), encoder_of(bert))
    systems = {"ExpandR": system, "query alone": system.without_expansion()}
    results = beir.experiment(systems, "pocket", tmp_path / "r", verbose=False)
    (index,) = (tmp_path / "r" / ".indexes").glob("*.faiss")  # one for both
    assert len(FaissIndex(index)) == 242
    theirs = pt.Experiment(
        [built.pipeline(), built.without_expansion().pipeline()],
        pocket().get_topics(),
        pocket().get_qrels(),
        ["ndcg_cut_10", "recall_100"],
    )
    expected = theirs[["ndcg_cut_10", "recall_100"]].to_numpy().ravel()
    np.testing.assert_allclose(results.means()["value"], expected, atol=1e-12)
    cell = json.loads((tmp_path / "r" / "ExpandR" / "pocket" / "cell.json").read_text())
    assert "records_sha256" in json.dumps(cell["pipeline"])

    again = beir.experiment(systems, "pocket", tmp_path / "r", verbose=False)
    pd.testing.assert_frame_equal(again.cells, results.cells)  # the same seconds: nothing was searched again
    changed = {"ExpandR": ExpandR(recorded(), encoder_of(bert, fusion=0.9))}
    assert (
        beir.experiment(changed, "pocket", tmp_path / "r", verbose=False).cells["fingerprint"][0]
        != again.cells["fingerprint"][0]
    )
    with pytest.raises(ValueError, match="has the index of one corpus, but there are 2"):
        beir.experiment({"s": built}, ["pocket", "irds:expandr-pocket/train"], tmp_path / "two", verbose=False)
    assert beir.experiment({"s": built}, "pocket", tmp_path / "one", verbose=False).failures.empty


def test_the_module_is_light():
    code = (
        "import sys, pyterrier_expandr.systems.expandr, pyterrier_expandr.beir\n"
        "heavy = {'torch', 'transformers', 'faiss', 'sentence_transformers', 'pyterrier_dr'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
