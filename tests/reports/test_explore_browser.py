"""The page of an experiment in a real browser: clicks, keys, and what must never run."""

import numpy as np
import pandas as pd
import pytest

from pyterrier_expandr.evaluation.result_store import ResultStore
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.reports.explore import explore
from tests.browser import chromium, load, until
from tests.reports.explored import DOCUMENTS, IMAGE, QUERIES, SCRIPT, SYSTEMS, experiment

TEXTS = list(QUERIES.values())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    return explore(experiment(folder)).save(folder / "page.html")


@pytest.fixture(scope="module")
def window():
    with chromium() as opened:
        yield opened


def click(window, selector, number=0):
    window.execute_script("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, number)


def press(window, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(window).send_keys(*keys).perform()


def text(window, selector):
    return window.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def listed(window):
    return window.execute_script("return [...document.querySelectorAll('#list .text')].map(e => e.textContent)")


def choose(window, selector, value):
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    window.execute_script(script, selector, value)


def clean(window):
    """No error was logged, nothing was fetched, and no script from the data has run."""
    assert window.get_log("browser") == []
    assert window.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert window.execute_script("return window.hacked ?? null") is None
    assert window.execute_script("return document.querySelectorAll('img, script:not([type])').length") == 2


def test_filter_query_ranking_document(window, page):
    load(window, page)
    click(window, "#tab-changes")
    until(window, "document.querySelectorAll('#bars svg, #scatter svg').length === 2")
    said = window.execute_script("return [...document.querySelectorAll('#counts span')].map(e => e.textContent)")
    assert said[:3] == ["▲ 2 better", "▼ 1 worse", "= 0 equal"]
    click(window, "#tab-queries")
    until(window, "document.querySelector('.lines svg')")
    assert listed(window)[-1] == TEXTS[2] and text(window, "#shown") == "3 of 3 queries"
    choose(window, "#filter", "better")
    assert sorted(listed(window)) == sorted(TEXTS[:2])
    window.execute_script(
        "const e = document.querySelector('#search'); e.value = 'TIDES'; e.dispatchEvent(new Event('input'))"
    )
    assert listed(window) == [TEXTS[1]]
    click(window, "#list button")
    until(window, "document.querySelector('#query h2').textContent.includes('what are tides')")
    marks = window.execute_script(
        "return [...document.querySelectorAll('.passage mark')].map(e => e.className + ':' + e.textContent)"
    )
    assert "shared:moon" in marks and "shared:pulls" in marks and "query:water" not in marks
    until(
        window, "document.querySelectorAll('.lines svg path[stroke-width]').length >= 3"
    )  # a line for each shared document
    rows = window.execute_script(
        "return [...document.querySelectorAll('.rankings ol')].map(o => [...o.querySelectorAll('.name')].map(e => e.textContent))"
    )
    titles = [title or docno for docno, (title, _) in DOCUMENTS.items()]
    assert rows == [[titles[i] for i in (3, 2, 1, 0)], [titles[i] for i in (0, 1, 2)]]
    grades = window.execute_script(
        "return [...document.querySelectorAll('.rankings ol:last-of-type .grade')].map(e => e.className)"
    )
    assert "grade relevant" in grades and "grade unjudged" in grades
    click(window, ".rankings ol:last-of-type button", 1)
    assert "The moon pulls the sea" in text(window, "#document[open]") and SCRIPT in text(window, "#document h2")
    assert f"{SYSTEMS[0]}: 3, {SYSTEMS[1]}: 2" in text(window, "#document[open]")
    clean(window)


def test_keys(window, page):
    from selenium.webdriver.common.keys import Keys

    load(window, page)
    press(window, "2")
    until(window, "!document.querySelector('#changes').hidden")
    press(window, "j")
    first = until(window, "document.querySelector('#query h2')?.textContent")
    press(window, "j")
    until(window, f"document.querySelector('#query h2').textContent !== {first!r}")
    press(window, "k")
    until(window, f"document.querySelector('#query h2').textContent === {first!r}")
    press(window, "/", "fugue")
    assert listed(window) == [TEXTS[2]]  # "j" and "k" are letters while one types
    press(window, Keys.ESCAPE, "x")
    assert until(window, "document.querySelector('#system-a').selectedOptions[0].textContent") == SYSTEMS[1]
    window.execute_script("document.querySelector('.rankings button').focus()")
    press(window, Keys.ENTER)
    until(window, "document.querySelector('#document').open")
    press(window, Keys.ESCAPE)
    until(window, "!document.querySelector('#document').open")
    press(window, "?")
    until(window, "document.querySelector('#keys').open")
    clean(window)


def test_a_click_in_a_chart_opens_its_query(window, page):
    load(window, page)
    click(window, "#tab-changes")
    until(window, "document.querySelector('#bars svg .mark-rect path')")
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    bars = window.find_elements(By.CSS_SELECTOR, "#bars svg .mark-rect path")
    away, said = window.find_element(By.CSS_SELECTOR, "h1"), []
    for bar in bars:
        ActionChains(window).move_to_element(away).perform()
        until(window, "!document.querySelector('#vg-tooltip-element.visible')")  # it may cover the next bar
        ActionChains(window).move_to_element(bar).perform()
        said.append(until(window, "document.querySelector('#vg-tooltip-element.visible')?.textContent"))
    assert len(bars) == 3 and any(SCRIPT in text for text in said) and any(IMAGE in text for text in said)
    clean(window)
    first = next(number for number, text in enumerate(said) if "sky" in text)
    ActionChains(window).click(bars[first]).perform()
    until(window, "document.querySelector('#query h2')?.textContent.includes('sky')")
    clean(window)


def test_an_address_opens_its_query(window, page):
    window.get("about:blank")
    window.get(page.as_uri() + "#query=3")
    until(window, f"document.querySelector('#query h2')?.textContent === {TEXTS[2]!r}")
    window.execute_script("location.hash = '#query=1'")  # as one types into the bar of the page
    until(window, "document.querySelector('#query h2').textContent.includes('sky')")
    for nothing in ("#query=100%", "#query=none", "#other"):
        window.get("about:blank")
        window.get(page.as_uri() + nothing)
        until(window, "document.documentElement.dataset.ready === 'yes'")
        assert text(window, "#query h2") == ""
    clean(window)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)], ids=["phone", "dark"])
def test_phone_and_dark(page, width, dark):
    with chromium(width=width, dark=dark) as window:
        load(window, page)
        for tab in ("report", "changes", "queries"):
            click(window, f"#tab-{tab}")
            until(window, "document.querySelector('main section:not([hidden])')")
            assert window.execute_script("return document.documentElement.scrollWidth") <= width, tab
        until(window, "document.querySelector('.lines svg')")
        ink = window.execute_script("return getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
        assert (min(ink) > 200) == dark
        clean(window)


def test_inside_a_notebook(window, page, tmp_path):
    from pyterrier_expandr.reports.explore import Page

    outer = tmp_path / "notebook.html"
    outer.write_text("<!DOCTYPE html><meta charset=utf-8>" + Page(page.read_text(encoding="utf-8"))._repr_html_())
    window.get(outer.as_uri())
    window.switch_to.frame(0)
    until(window, "document.documentElement.dataset.ready === 'yes'")
    click(window, "#tab-queries")
    until(window, "document.querySelector('.lines svg')")
    assert window.get_log("browser") == []


@pytest.mark.slow
def test_a_thousand_queries_five_systems_a_hundred_ranks(window, tmp_path):
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 11)))) for _ in range(30_000)])
    collection, names = tmp_path / "large", [f"system {number}" for number in range(5)]
    (collection / "qrels").mkdir(parents=True)
    pick = (30_000 * rng.random((50_000, 150)) ** 3).astype(int)  # few words are frequent, as in a language
    with open(collection / "corpus.jsonl", "w") as file:
        for number, row in enumerate(words[pick]):
            file.write(f'{{"_id": "doc{number}", "title": "{" ".join(row[:6])}", "text": "{" ".join(row[6:])}"}}\n')
    queries = [f'{{"_id": "q{q}", "text": "{" ".join(words[rng.integers(0, 30_000, 8)])}"}}' for q in range(1000)]
    (collection / "queries.jsonl").write_text("\n".join(queries))
    found = [rng.permutation(50_000)[:200] for _ in range(1000)]  # the systems share some of their documents
    (collection / "qrels" / "test.tsv").write_text("\n".join(f"q{q}\tdoc{docs[0]}\t1" for q, docs in enumerate(found)))
    store = ResultStore(tmp_path / "r", names, ["large"], ["nDCG@10"], {"num_results": 100, "split": "test"})
    for name in names:
        docs = np.concatenate([rng.permutation(each)[:100] for each in found])
        columns = {"qid": np.repeat([f"q{q}" for q in range(1000)], 100), "docno": [f"doc{d}" for d in docs]}
        store.save_run(name, "large", pd.DataFrame({**columns, "rank": list(range(100)) * 1000, "score": 1.0}))
        values = pd.DataFrame({"qid": [f"q{q}" for q in range(1000)], "measure": "nDCG@10", "value": rng.random(1000)})
        record = {"means": {"nDCG@10": 0.5}, "n_queries": 1000, "seconds": 1.0, "fingerprint": "f"}
        store.commit(name, "large", values, record)
    page = explore(Results.load(tmp_path / "r"), data=tmp_path)
    assert len(page.html.encode()) < 20e6
    seconds = min(load(window, page.save(tmp_path / "page.html")) for _ in range(3))
    print(f"{len(page.html.encode()) / 1e6:.1f} MB, open in {seconds:.2f} s; {page.notes}")
    click(window, "#tab-queries")
    until(window, "document.querySelector('.lines svg')")
    clean(window)
    assert seconds < 2
