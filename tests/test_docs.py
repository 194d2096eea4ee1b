"""The pages say what is true: links lead somewhere, named functions and tests exist, marked code runs."""

import ast
import importlib
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pyterrier_expandr

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md"]
RUNS = re.compile(r"<!-- run -->\n```python\n(.*?)```", re.S)


def packages():
    return [
        "pyterrier_expandr",
        *(m.name for m in pkgutil.walk_packages(pyterrier_expandr.__path__, "pyterrier_expandr.") if m.ispkg),
    ]


def defined_at(path):
    """Where the name at a dotted path is defined; packages say it of their names, so that nothing heavy is imported."""
    package, _, name = path.rpartition(".")
    home = getattr(importlib.import_module(package), "_HOME", {}).get(name) if package in packages() else None
    if home is None:
        return path
    return f"{package}.{home}" if home.rpartition(".")[2] == name else f"{package}.{home}.{name}"


def exists(path):
    """Whether the file of a module defines the name at a dotted path."""
    module, _, name = path.rpartition(".")
    inside = module.removeprefix("pyterrier_expandr.").replace(".", "/")
    file = ROOT / (inside if inside.startswith("training/") else f"pyterrier_expandr/{inside}")
    defined = re.compile(rf"^(?:def|class) {name}\b|^{name}\b.*=", re.M)
    return any(f.is_file() and defined.search(f.read_text()) for f in (file.with_suffix(".py"), file / "__init__.py"))


def slug(heading):
    """The anchor of a heading, as forges and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.M)
            assert anchor in map(slug, headings), f"{page.name} links to {target}, and {place.name} has no such heading"


def test_the_table_of_contents_names_every_page():
    named = set(re.findall(r"^([a-z_]+)$", (DOCS / "index.md").read_text(), re.M))
    written = {page.stem for page in PAGES} - {"index"}
    assert written == named, f"name them in docs/index.md, or take them out: {written ^ named}"


def test_every_public_name_is_in_the_reference():
    paths = re.findall(r"^\.\. auto\w+:: (\S+)", "\n".join(p.read_text() for p in DOCS.glob("reference/*.rst")), re.M)
    documented = set(map(defined_at, paths))
    public = {
        f"{package}.{name}"
        for package in packages()
        if not package.endswith(".cli")
        for name in getattr(importlib.import_module(package), "__all__", ())
    }
    missing = sorted(name for name in public if defined_at(name) not in documented)
    assert len(public) > 80 and not missing, f"add them to a page in docs/reference: {missing}"


def test_the_pages_for_pyterriers_site_name_what_exists():
    """That site copies `pt_docs` of the installed package and opens `index.rst` (docs/extras/generate_extensions.py)."""
    folder = ROOT / "pyterrier_expandr" / "pt_docs"
    index, api = (folder / "index.rst").read_text(), (folder / "api.rst").read_text()
    assert "API Reference <api>" in index
    paths = re.findall(r"(?:auto\w+:: |:class:`~)([\w.]+)", index + api)
    names = {path.removeprefix("pyterrier_expandr.") for path in paths}
    assert names == set(pyterrier_expandr.__all__) - {"beir"} | {"beir.experiment"}


def test_the_paper_map_leads_to_functions_and_tests():
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `([\w.]+)` \| `([\w./]+)(?:::(\w+))?` \|$", map_text(), re.M)
    assert len(rows) == len(re.findall(r"^\| (?!in the paper|-)", map_text(), re.M)) > 25
    for function, file, test in rows:
        assert exists(f"pyterrier_expandr.{function}"), function
        assert (ROOT / file).is_file(), file
        assert not test or re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M), f"{file} has no {test}"


def map_text():
    return (DOCS / "paper_map.md").read_text()


def test_every_explained_message_is_one_of_the_package():
    strings = [
        node.value
        for top in ("pyterrier_expandr", "training")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    messages = re.findall(r"^\| `([^|]+)` \| ", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(messages) > 40
    for message in messages:
        for part in map(str.strip, message.split("...")):
            assert any(part in string for string in strings), f"no error says {part!r}"


def test_the_readmes_example_is_the_one_that_runs():
    quickstart = RUNS.findall((DOCS / "quickstart.md").read_text())
    assert f"```python\n{quickstart[0]}```" in (ROOT / "README.md").read_text()


def test_every_command_in_the_pages_exists_with_its_options():
    from typer.main import get_command

    from pyterrier_expandr.cli import app

    checked = 0
    for page in TEXTS:
        shells = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
        for line in "".join(shells).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "expandr" not in words[:2]:  # a variable may be set before it
                continue
            command, words = get_command(app), words[words.index("expandr") + 1 :]
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            unknown = {word for word in words if word.startswith("--")} - options
            given = options & set(words)
            missing = [each.name for each in command.params if each.required and not given & set(each.opts)]
            missing = [name for name in missing if f"--{name.replace('_', '-')}" in options]  # arguments have no flag
            assert not unknown and not missing and not hasattr(command, "commands"), f"{page.name}: {line}"
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("page", [page for page in PAGES if RUNS.search(page.read_text())], ids=lambda page: page.stem)
def test_marked_code_runs(page, minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page.stem}
    for block in RUNS.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), names)
    if page.stem == "quickstart":
        table = names["table"].set_index("name")
        assert table.loc["ExpandR", "ndcg_cut_10"] > table.loc["dense", "ndcg_cut_10"]


def test_addresses_of_the_repository_are_the_one_in_pyproject():
    address = re.search(r'^Repository = "(https://github\.com/([^"]+))"', (ROOT / "pyproject.toml").read_text(), re.M)
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        cells = [cell | {"source": "".join(cell["source"])} for cell in json.loads(notebook.read_text())["cells"]]
        badge = f"https://colab.research.google.com/github/{address[2]}/blob/main/notebooks/{notebook.name}"
        assert badge in cells[0]["source"]
        extras = re.search(r'pip install "(pyterrier_expandr\[[\w,]+\])"', cells[0]["source"])[1]
        first = next(cell["source"] for cell in cells if cell["cell_type"] == "code")
        assert f'%pip install --quiet "{extras}"' in first, "the first cell of code installs what the text names"
    for text in [ROOT / "README.md", *(ROOT / "pyterrier_expandr" / "pt_docs").glob("*.rst"), *notebooks]:
        for found in re.findall(r"github(?:\.com)?/([\w-]+/pyterrier_expandr)", text.read_text()):
            assert found == address[2], f"{text.name} names another repository"


def test_the_picture_shows_parts_that_exist():
    drawn = (DOCS / "pipeline.svg").read_text()
    for name in re.findall(r"<b>(\w+)</b>", (DOCS / "pipeline.dot").read_text()):
        assert f">{name}</text>" in drawn, f"{name} is not in pipeline.svg: make docs/pipeline.svg"
        homes = (pyterrier_expandr, pyterrier_expandr.expansion, pyterrier_expandr.retrieval)
        assert name == "BM25" or any(name in home.__all__ for home in homes)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["docs", "pyterrier_expandr/pt_docs"])
def test_the_site_is_built_without_a_warning(source, tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra docs")
    options = (
        ["-c", str(DOCS)] if source == "docs" else ["-C", "-D", "extensions=sphinx.ext.autodoc,sphinx.ext.napoleon"]
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", *options]
    built = subprocess.run(
        [*command, *(["-n"] if source == "docs" else []), source, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").is_file()
