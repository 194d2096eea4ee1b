"""A model of the hub is the same before its files are here and afterwards."""

import numpy as np
import pytest

from pyterrier_expandr import ExpandR, ExpandREncoder, GenerationCache, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.common.fingerprint import model_fingerprint, pinned_revision
from pyterrier_expandr.evaluation.beir_collections import Collection
from tests.encoders_tiny import build_bert, with_modules
from tests.hub import serve


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [with_modules(build_bert(folder / name, seed), "mean") for seed, name in enumerate("ab")]


@pytest.mark.slow  # a minute
def test_the_second_run_finds_the_index_of_the_first(hub, models, tmp_path):
    """Resolved first, so that the folder of the index has the same name before the download and after it."""
    pytest.importorskip("faiss")
    commit = hub.push("org/bert", models[0])
    collection = Collection("pocket", pocket())
    described = ExpandREncoder("org/bert", device="cpu").describe()
    assert described["encoder"] == {"model": "org/bert", "commit": commit}
    first = ExpandR(None, ExpandREncoder("org/bert", device="cpu")).for_collection(collection, tmp_path / "indexes")
    assert first.faiss_index.encoder["fingerprint"] == {"model": "org/bert", "commit": commit}
    second = ExpandR(None, ExpandREncoder("org/bert", device="cpu")).for_collection(collection, tmp_path / "indexes")
    assert second.faiss_index == first.faiss_index and len(list((tmp_path / "indexes").iterdir())) == 1
    assert second.encoder._model is None, "nothing was encoded, so no model was loaded"
    assert second.describe() == first.describe()


@pytest.mark.slow
def test_what_is_opened_is_what_was_named(hub, models, tmp_path):
    """The branch moves between the two, and later: the first commit stays until another revision is asked for."""
    old = hub.push("org/bert", models[0])
    encoder = ExpandREncoder("org/bert", device="cpu")
    named = encoder.fingerprint()
    new = hub.push("org/bert", models[1])
    expected = ExpandREncoder(models[0], device="cpu").encode_queries(["sky"])
    np.testing.assert_allclose(encoder.encode_queries(["sky"]), expected, atol=1e-6)
    assert encoder.source["fingerprint"] == named == {"model": "org/bert", "commit": old}
    np.testing.assert_allclose(ExpandREncoder("org/bert", device="cpu").encode_queries(["sky"]), expected, atol=1e-6)
    newer = ExpandREncoder("org/bert", revision=new, device="cpu")
    assert newer.fingerprint() == {"model": "org/bert", "commit": new}
    np.testing.assert_allclose(
        newer.encode_queries(["sky"]), ExpandREncoder(models[1], device="cpu").encode_queries(["sky"]), atol=1e-6
    )


@pytest.mark.slow
def test_the_cache_of_generations_has_one_address(hub, tiny_llama, tmp_path):
    commit = hub.push("org/llama", tiny_llama)
    texts = []
    for _ in range(2):
        backend = HuggingFaceBackend("org/llama", device="cpu")
        assert backend.fingerprint()["commit"] == commit
        cache = GenerationCache(tmp_path / "cache.sqlite")
        expander = LLMExpander(backend, n=2, max_new_tokens=4, clean=False, cache=cache)
        with pytest.warns(UserWarning, match="truncated at 4"):
            texts.append(expander.search("why is the sky blue")["query_expansions"][0])
        assert len(cache) == 2
    assert texts[0] == texts[1] and backend._model is None


def test_the_hub_is_asked_once_and_only_for_what_is_not_here(hub, models):
    assert model_fingerprint("org/none") == model_fingerprint("org/none") == {"model": "org/none", "revision": None}
    assert model_fingerprint("org/none", "v1") == {"model": "org/none", "revision": "v1"}
    asked = len(hub.asked)
    assert model_fingerprint("org/none", "a" * 40) == {"model": "org/none", "commit": "a" * 40}
    model_fingerprint("org/none")
    assert len(hub.asked) == asked
    commit = hub.push("org/bert", models[0])
    assert pinned_revision("org/bert") == commit
    asked = len(hub.asked)
    assert model_fingerprint("org/bert") == {"model": "org/bert", "commit": commit} and len(hub.asked) == asked
    assert pinned_revision(models[0], "v1") == "v1"
