import json
import shutil
import signal
import threading
import time

import pandas as pd
import pyterrier as pt
import pytest
from typer.testing import CliRunner

from pyterrier_expandr import ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.cli import app
from pyterrier_expandr.collections import POCKET, pocket
from pyterrier_expandr.evaluation import beir
from pyterrier_expandr.evaluation.cell_files import CELL
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.systems.expandr import ExpandR
from pyterrier_expandr.systems.names import SystemOpener
from pyterrier_expandr.systems.settings import HybridSettings, TunedSettings
from tests.reports.explored import data_of
from tests.tiny import build_tiny_llama
from tests.tiny_encoder import build_tiny_bert, open_tiny

RECORDED = pocket().expansions_path


def invoke(*arguments, status=0):
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done


def experiment(out, systems, *options, collections=("pocket",), status=0):
    """The finished command `expandr experiment`."""
    named = [each for name, system in systems.items() for each in ("--system", f"{name}={system}")]
    on = [each for name in collections for each in ("--collection", name)]
    return invoke("experiment", *named, *on, "--out", out, "--device", "cpu", *options, status=status)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A saved encoder that is small and quick."""
    folder = tmp_path_factory.mktemp("encoder")
    open_tiny(build_tiny_bert(folder / "bare")).save(str(folder / "bert"))
    return str(folder / "bert")


@pytest.fixture(scope="module")
def finished(bert, tmp_path_factory):
    """The folder of a finished experiment, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished") / "deep" / "out"
    systems = {"BM25": "BM25", "dense": bert, "ExpandR": f"{bert}+{RECORDED}"}
    return folder, experiment(folder, systems, "--baseline", "dense", "--measure", "nDCG@10", "--measure", "RR").stdout


def test_the_command_gives_what_the_function_gives(finished, bert, tmp_path):
    folder, printed = finished
    system = ExpandR(RecordedExpander(RECORDED), ExpandREncoder(bert, device="cpu"))
    systems = {"dense": system.without_expansion(), "ExpandR": system}
    expected = beir.experiment(systems, "pocket", tmp_path / "r", measures=["nDCG@10", "RR"], verbose=False)
    results = Results.load(folder)
    assert results.systems == ["BM25", "dense", "ExpandR"] and results.measures == ["nDCG@10", "RR"]
    pd.testing.assert_frame_equal(Results.load(folder, systems=list(systems)).means(), expected.means())
    for value in results.means()["value"]:
        assert f"{100 * value:.2f}" in printed
    assert "worse than dense" in printed and "## RR" in printed and f"results in {folder}" in printed
    assert len(list((folder / ".indexes").glob("*.faiss"))) == 1  # shared by both dense systems


def test_what_is_finished_is_not_computed_again(finished, bert):
    folder, _ = finished
    before = Results.load(folder).cells
    again = experiment(folder, {"dense": bert, "ExpandR": f"{bert}+{RECORDED}"}, "--measure", "RR").stdout
    pd.testing.assert_frame_equal(Results.load(folder).cells, before)
    assert "## RR" in again and "nDCG" not in again and "BM25" not in again


def test_hybrids_and_bm25_with_passages_by_name(bert, tmp_path):
    TunedSettings(n=1, fusion=1.0, hybrid=HybridSettings(weight=1.0)).save(tmp_path / "s.json")
    systems = {
        "BM25": "bm25",
        "BM25 + passages": f"bm25+{RECORDED}",
        "hybrid, query alone": f"{bert}+bm25",
        "hybrid": f"{bert}+bm25+{RECORDED}",
        "tuned": f"{bert}+BM25+{RECORDED}+{tmp_path / 's.json'}",
    }
    printed = experiment(tmp_path / "out", systems, "--baseline", "BM25").stdout
    assert all(name in printed for name in systems)
    results = Results.load(tmp_path / "out")
    value = results.means().query("measure == 'nDCG@10'").set_index("system")["value"]
    assert value["BM25"] + 0.02 < value["BM25 + passages"] == pytest.approx(value["tuned"], abs=1e-12)
    theirs = ExpandR(RecordedExpander(RECORDED), ExpandREncoder(bert, device="cpu"), lexical="pisa")
    expected = beir.experiment({"h": theirs, "q": theirs.without_expansion()}, "pocket", tmp_path / "r", verbose=False)
    assert value[["hybrid", "hybrid, query alone"]].tolist() == expected.means()["value"].tolist()[::2]
    assert len(list((tmp_path / "out" / ".indexes").iterdir())) == 2  # one of words and one of vectors for all five
    assert "hybrid, query alone" in invoke("report", tmp_path / "out", "--layout", "systems", "--format", "html").stdout


def test_report_and_analyse_read_the_folder(finished):
    folder, _ = finished
    assert "<table" in invoke("report", folder, "--baseline", "BM25", "--format", "html").stdout
    changes = invoke("analyse", "change", folder, "--system", "ExpandR", "--baseline", "dense").stdout
    assert "the mean over 37 queries" in changes
    case = invoke("analyse", "case", "q01", folder, "--collection", "pocket").stdout
    assert case.count("gold document") == 4


def test_the_page_of_a_folder_has_its_passages_and_embeddings(finished):
    folder, _ = finished
    printed = invoke("explore", folder, "--baseline", "dense", "--maps", 2, "--device", "cpu").stdout
    text = (folder / "explore.html").read_text(encoding="utf-8")
    assert f"page in {folder / 'explore.html'}" in printed and "Embeddings are drawn for the 2 queries" in printed
    core, details = data_of(text, "core"), data_of(text, "queries-0")
    recorded = RecordedExpander(RECORDED)(pocket().get_topics())["query_expansions"].tolist()
    assert [each["passages"]["texts"] for each in details] == recorded
    assert core["systems"] == ["BM25", "dense", "ExpandR"] and core["pair"][0] == 1
    maps = [[each and each["kind"] for each in one["maps"]] for one in details]
    drawn = [one for one in maps if any(one)]
    assert len(drawn) == 2
    for bm25, dense, expanded in drawn:
        assert bm25 is None and dense[0] == "query" and set(dense[1:]) == {"document"}
        assert expanded[:3] == ["query", "passage", "fused"] and set(expanded[3:]) == {"document"}
    # the fused vector lies halfway between query and passage, and so it does on a plane
    xy = next(one["maps"][2]["xy"] for one in details if one["maps"][2])
    halfway = [(a + b) / 2 for a, b in zip(xy[0], xy[1], strict=True)]
    assert xy[2] == pytest.approx(halfway, abs=2e-3)


def test_a_saved_system_with_and_without_its_expansions(bert, tmp_path):
    system = ExpandR(RecordedExpander(RECORDED), ExpandREncoder(bert, device="cpu"), tmp_path / "index")
    system.index(pocket().get_corpus_iter()).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="a saved one says itself if it is a hybrid"):
        SystemOpener(tmp_path)(f"{tmp_path / 'saved'}+bm25")
    systems = {"saved": tmp_path / "saved", "plain": f"{tmp_path / 'saved'}+none", "named": f"expandr:{tmp_path}/saved"}
    experiment(tmp_path / "one", systems)
    assert not (tmp_path / "one" / ".indexes").exists()  # its own index was searched
    results = Results.load(tmp_path / "one")
    theirs = ExpandR(RecordedExpander(RECORDED), ExpandREncoder(bert, device="cpu"))
    expected = beir.experiment(
        {"saved": theirs, "plain": theirs.without_expansion()}, "pocket", tmp_path / "r", verbose=False
    )
    found = results.means().set_index(["system", "measure"])["value"]
    assert found["saved"].tolist() == found["named"].tolist() != found["plain"].tolist()
    assert found[["saved", "plain"]].tolist() == expected.means()["value"].tolist()

    both = ["pocket", "irds:expandr-pocket/train"]
    experiment(tmp_path / "two", {"saved": tmp_path / "saved"}, collections=both)
    assert len(list((tmp_path / "two" / ".indexes").glob("*.faiss"))) == 2
    assert len(Results.load(tmp_path / "two").means()) == 4


def test_the_index_of_another_corpus_is_noticed(bert, tmp_path):
    other = ExpandR(None, ExpandREncoder(bert, device="cpu"), tmp_path / "index")
    other.index([{"docno": "elsewhere", "text": "another corpus"}]).save(tmp_path / "saved")
    done = experiment(tmp_path / "out", {"s": tmp_path / "saved"}, status=1)
    assert "failed: s on pocket: ValueError: the index" in done.stderr
    assert "contains none of the judged documents of pocket" in done.stderr


def test_expansions_that_an_llm_writes_are_kept(bert, tiny_llama, tmp_path):
    options = ("--max-new-tokens", 3, "--prompt", "q2e", "--n", 2)
    with pytest.warns(UserWarning, match="of 74 expansions"):
        experiment(tmp_path / "out", {"live": f"{bert}+{tiny_llama}"}, *options)
    cell = json.loads((tmp_path / "out" / "live" / "pocket" / CELL).read_text())
    expander = cell["pipeline"][0]
    assert (expander["n"], expander["max_new_tokens"], expander["temperature"]) == (2, 3, 1.0)
    assert "keywords" in json.dumps(expander["prompt"]) and (tmp_path / "out.sqlite").is_file()


def test_a_saved_system_s_llm_on_another_backend(bert, tiny_llama, tmp_path):
    expander = LLMExpander(HuggingFaceBackend(tiny_llama, device="cpu"), max_new_tokens=3)
    index = ExpandR(None, ExpandREncoder(bert, device="cpu"), tmp_path / "index").index(pocket().get_corpus_iter())
    ExpandR(expander, index.encoder, index.faiss_index).save(tmp_path / "saved")
    with pytest.warns(UserWarning, match="of 37 expansions"):
        experiment(tmp_path / "out", {"s": f"{tmp_path / 'saved'}+hf:{tiny_llama}?batch_size=2"})
    build_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="the LLM are not those that were saved"):
        experiment(tmp_path / "out", {"s": f"{tmp_path / 'saved'}+{tmp_path / 'other'}"})


def test_a_file_of_expansions_for_each_collection(bert, tmp_path):
    data, files = tmp_path / "data", tmp_path / "expansions"
    shutil.copytree(POCKET, data / "own")
    shutil.copytree(POCKET, data / "other")
    files.mkdir()
    shutil.copy(RECORDED, files / "own.jsonl")
    done = experiment(
        tmp_path / "out",
        {"E": f"{bert}+{files}/{{collection}}.jsonl"},
        *("--data", data, "--indexes", tmp_path / "indexes", "--num-results", 50),
        collections=["own", "other"],
        status=1,
    )
    assert "failed: E on other: FileNotFoundError" in done.stderr and "computes the rest" in done.stderr
    assert "| own |" in done.stdout and "| other |" not in done.stdout
    shutil.copy(RECORDED, files / "other.jsonl")
    systems = {"E": f"{bert}+{files}/{{collection}}.jsonl"}
    options = ("--data", data, "--indexes", tmp_path / "indexes", "--num-results", 50)
    assert "| other |" in experiment(tmp_path / "out", systems, *options, collections=["own", "other"]).stdout
    assert len(list((tmp_path / "indexes").glob("*.faiss"))) == 2
    assert Results.load(tmp_path / "out").run("E", "own").groupby("qid").size().max() == 50


def test_ctrl_c_keeps_what_is_finished(bert, tiny_llama, tmp_path):
    out, systems = tmp_path / "out", {"dense": bert, "live": f"{bert}+{tiny_llama}"}

    def interrupt():
        written = tmp_path / "out.sqlite-wal"  # the LLM is writing
        while not (out / "dense" / "pocket" / CELL).is_file() or written.stat().st_size < 100_000:
            time.sleep(0.02)
        signal.raise_signal(signal.SIGINT)

    watch = threading.Thread(target=interrupt, daemon=True)
    watch.start()
    experiment(out, systems, "--max-new-tokens", 100, status=130)
    assert Results.load(out).cells["state"].tolist() == ["done", "pending"]


@pytest.mark.parametrize(
    ("systems", "options", "said"),
    [
        ({"s": "bm52"}, [], "unknown encoder 'bm52'"),
        ({"s": "./nowhere"}, [], "there is no folder './nowhere'"),
        ({"s": "expandr:./nowhere"}, [], "there is no folder './nowhere'"),
        ({"s": "contriever+nowhere.jsonl"}, [], "nowhere.jsonl"),
        ({"s": "contriever+vlm:m"}, [], "there is no backend 'vlm'"),
        ({"s": "contriever+"}, [], "names no system"),
        ({"s": "bm25+bm25"}, [], "only an encoder has a second search"),
        ({"s": "bm25+nowhere.jsonl"}, [], "nowhere.jsonl"),
        ({"s": "contriever+bm25+nowhere.json"}, [], "nowhere.json"),
        ({"s": "contriever++bm25"}, [], "names no system"),
        ({"": "bm25"}, [], "expected NAME=VALUE, got '=bm25'"),
        ({"s": "bm25"}, ["--system", "s=contriever"], "each name may be given only once"),
        ({"s": "bm25"}, ["--baseline", "t"], "there is no system 't': choose the baseline from"),
        ({"s": "bm25"}, ["--measure", "nonsense"], "unknown measure 'nonsense'"),
        ({"s": "bm25"}, ["--collection", "scifct"], "unknown collection 'scifct'"),
    ],
)
def test_what_can_be_mended_is_said_before_any_work(systems, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=said):
        experiment(tmp_path / "out", systems, *options)
    assert not (tmp_path / "out").exists()


def test_both_indexes_and_a_hybrid_search(bert, tmp_path):
    index, words = tmp_path / "i", tmp_path / "i.pisa"
    build = ("index", "--collection", "pocket", "--encoder", bert, "--index", index, "--lexical", "--device", "cpu")
    assert "242 documents" in invoke(*build).stdout and words.is_dir()
    with pytest.raises(FileExistsError, match="holds a lexical index"):
        invoke(*build, "--mode", "create")
    assert "finished before" in invoke(*build).stderr
    shutil.rmtree(words)
    query = ("search", "the fruit that kept sailors healthy", "--index", index, "--num-results", 3, "--device", "cpu")
    with pytest.raises(FileNotFoundError, match="there is no lexical index"):
        invoke(*query, "--hybrid", "sum")
    with pytest.raises(FileExistsError, match="--mode resume adds the lexical one"):
        invoke(*build, "--mode", "create")
    invoke(*build)
    assert len(invoke(*query, "--hybrid", "sum").stdout.splitlines()) == 4
    made = words.stat().st_mtime_ns
    assert "242 documents" in invoke(*build, "--mode", "overwrite").stdout and words.stat().st_mtime_ns > made
    with pytest.raises(ValueError, match="leave --hybrid out"):
        invoke(*query, "--hybrid", "sum", "--settings", "s.json")

    hybrid, run = HybridSettings(weight=0.25), tmp_path / "run.trec"
    TunedSettings(n=1, fusion=0.4, hybrid=hybrid).save(tmp_path / "s.json")
    recorded = ("--collection", "pocket", "--expansions", RECORDED, "--index", index, "--settings", tmp_path / "s.json")
    invoke("search", *recorded, "--num-results", 20, "--out", run, "--device", "cpu")
    found = pt.io.read_results(str(run)).set_index(["qid", "docno"])["score"]
    encoder = ExpandREncoder(bert, device="cpu", fusion=0.4)
    system = ExpandR(RecordedExpander(RECORDED), encoder, index, lexical="pisa", hybrid=hybrid)
    expected = system.pipeline(20)(pocket().get_topics()).set_index(["qid", "docno"])["score"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), rtol=1e-5, check_index_type=False)


def test_index_goes_on_after_an_interruption_and_names_its_flags(bert, tmp_path):
    build = ("index", "--collection", "pocket", "--encoder", bert, "--index", tmp_path / "i", "--device", "cpu")
    index, encoder = FaissIndex(tmp_path / "i"), ExpandREncoder(bert, device="cpu")

    def stopping():
        yield from pocket().get_corpus_iter()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pyterrier_expandr.retrieval.faiss_build.CHUNK", 100)
        with pytest.raises(KeyboardInterrupt):
            (encoder.doc_encoder() >> index).index(stopping(), batch_size=50)
    with pytest.raises(FileExistsError, match="continue it with --mode resume, or start over with --mode overwrite"):
        invoke(*build, "--mode", "create")
    done = invoke(*build)
    assert "continuing the interrupted build: 200 documents are there" in done.stderr and "242 documents" in done.stdout
    with pytest.raises(ValueError, match="leave out --factory to open it, or rebuild it with --mode overwrite"):
        invoke(*build, "--factory", "HNSW8")
    with pytest.raises(ValueError, match="--mode must be"):
        invoke(*build, "--mode", "nonsense")
    with pytest.raises(FileExistsError, match="of other documents.*replace it with --mode overwrite"):
        invoke(*build, "--collection", reversed_pocket(tmp_path / "reversed"))
    with pytest.raises(ValueError, match="--hybrid must be one of sum, rrf, zscore"):
        invoke("search", "sky", "--index", tmp_path / "i", "--hybrid", "nonsense")


def reversed_pocket(folder):
    """The pocket collection with its documents in another order."""
    shutil.copytree(pocket().path, folder)
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    return folder


def test_tune_writes_settings_that_an_experiment_opens(bert, tiny_llama, tmp_path):
    index, out = tmp_path / "i", tmp_path / "tuned.json"
    build = ("index", "--collection", "pocket", "--encoder", bert, "--index", index, "--lexical", "--device", "cpu")
    invoke(*build)
    options = ("--index", index, "--hybrid", "sum", "--device", "cpu", "--out", out)
    grid = ("--fusion", 0.5, "--fusion", 0.8, "--repeats", 5, "--repeats", "mugi", "--weight", 0.5, "--weight", 1)
    done = invoke("tune", "--collection", "pocket", "--expansions", RECORDED, *options, *grid)
    assert "passages are used: on held-out queries they bring +" in done.stdout and f"settings in {out}" in done.stdout
    settings = TunedSettings.load(out)
    assert settings.n == 1 and settings.source["split"] == "train" and settings.source["queries"] == 31
    rows = [line.rsplit(maxsplit=6) for line in done.stdout.splitlines() if line.split()[0] in ("hybrid,", "chosen")]
    assert [row[0].strip() for row in rows] == ["hybrid, query alone", "hybrid, passages", "chosen"]
    systems = {"tuned": f"{bert}+bm25+{RECORDED}+{out}", "untuned": f"{bert}+bm25+{RECORDED}"}
    experiment(tmp_path / "r", systems)
    mean = Results.load(tmp_path / "r").means().set_index(["system", "measure"])["value"]
    assert mean["tuned", "nDCG@10"] > mean["untuned", "nDCG@10"]

    live = ("tune", "--collection", "irds:expandr-pocket/train", "--llm", tiny_llama, "--queries", 4, "--folds", 2)
    with pytest.warns(UserWarning, match="truncated at 4"):
        written = invoke(*live, *options, "--n", 1, "--n", 2, "--fusion", 0.9, "--max-new-tokens", 4)
    assert "settings in" in written.stdout and out.with_suffix(".sqlite").is_file()
    for wrong, said in (
        (("--collection", "pocket", "--split", "test", "--expansions", RECORDED), "name a training split"),
        (("--collection", "irds:expandr-pocket/test", "--expansions", RECORDED), "name a training split"),
        (("--collection", "pocket"), "give either --expansions or --llm"),
        (("--collection", "pocket", "--expansions", RECORDED, "--repeats", "five"), "repeats must be"),
    ):
        with pytest.raises(ValueError, match=said):
            invoke("tune", *wrong, *options)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is not the folder of an experiment"):
        experiment(tmp_path, {"s": "bm25"})


def test_names_that_share_a_model_share_it():
    open_system = SystemOpener("indexes")
    plain, live, other = (open_system(f"contriever{rest}") for rest in ("", "+hf:owner/llm", "+none"))
    assert plain.encoder is live.encoder is other.encoder and plain == other
    assert live.expander is open_system("bge-m3+hf:owner/llm").expander


def test_help_shows_an_example_and_the_grammar():
    shown = invoke("experiment", "--help").stdout
    assert "Example: expandr experiment" in shown and "  ENCODER+bm25+EXPANSIONS  " in shown
