"""What the benchmarks of encoding and of scale conclude from their numbers."""

import json
import re
import shlex

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import encoding, report, scale, scale_plan
from pyterrier_expandr.cli.commands import app


def built(kind, size, cpu, peak, ratio):
    own = {"cpu_seconds": cpu, "wall_seconds": cpu, "peak_MB": peak, "disk_MB": 1000.0}
    row = {"system": "ours", "batch": 10, "queries/s": 5.0, "ratio": ratio, "ms_more_per_call": 1.0}
    found = {"kind": kind, "factory": kind, "size": size, "build": {"ours": own}, "search": [row]}
    return found | {"recall": {"ours": 1.0}}


def test_targets_of_scale():
    cells = [built("Flat", 10_000, 1.0, 1600, 1.0), built("Flat", 1_000_000, 90.0, 1700, 1.05)]
    assert scale.growth(cells, "Flat") == pytest.approx(np.log10(90) / 2)
    assert scale.missed(cells) == []
    assert scale.growth(cells[:1], "Flat") is None
    cells[1] = built("Flat", 1_000_000, 200.0, 1701, 1.2)
    memory, speed, growth = scale.missed(cells)
    assert "takes 1701 MB, more than 1700" in memory and "1.20 times bare FAISS" in speed
    assert "exponent 1.15" in growth
    assert "| 1,000,000 | Flat | ours | 200 | 1,701 | 1,000 | 5 | 1.000 |" in scale.markdown(cells)


def test_recall_and_truth(tmp_path):
    np.savez(tmp_path / "spectrum.npz", mean=np.zeros(scale.DIM), root=np.diag(np.linspace(1, 0.1, scale.DIM)))
    scale.make_vectors(tmp_path, 9000)
    matrix = np.concatenate(list(scale.blocks(tmp_path, 9000)))
    assert matrix.shape == (9000, 384) and np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    assert len(np.unique(matrix[:, 0])) > 8990  # no block repeats another
    scale.make_truth(tmp_path, 9000)
    truth = np.load(tmp_path / "9000.truth.npy")
    scores = scale.drawn(tmp_path, scale.QUERIES, 7)[:5] @ matrix.T
    assert [set(row) for row in truth[:5]] == [set(row) for row in np.argsort(-scores, axis=1)[:, : scale.K]]
    assert scale.recall_at(truth[:, ::-1], truth) == 1 and scale.recall_at(truth + 9000, truth) == 0


def test_targets_of_int8():
    def found(ratio, ndcg):
        base = {"way": encoding.BASE, "ratio": 1.0, "docs/s": 10.0, "nDCG@10": 0.6451, "cosine to float32": 1.0}
        fast = {"way": encoding.FAST, "ratio": ratio, "docs/s": 25.0, "nDCG@10": ndcg, "cosine to float32": 0.99}
        return {"SciFact": {"documents": 1, "queries": 1, "rows": [base, fast]}}

    assert encoding.missed(found(2.6, 0.6440)) == []
    slow, worse = encoding.missed(found(2.3, 0.6400))
    assert "2.30 times as fast" in slow and "loses 0.51 points" in worse
    table = encoding.markdown({"with VNNI": {"collections": found(2.6, 0.6440)}})
    assert "| with VNNI | SciFact | int8 | 25.0 | 2.60 | 0.6440 | 0.9900 |" in table

    vaswani = {"threads": 1, "collections": {"Vaswani": found(2.3, 0.6440)["SciFact"]}}
    both = encoding.added({"with VNNI": {"collections": found(2.6, 0.6440)}}, "with VNNI", vaswani)["with VNNI"]
    assert list(both["collections"]) == ["SciFact", "Vaswani"] and len(both["missed"]) == 1


def test_the_recorded_int8_reaches_its_targets_where_there_is_arithmetic_for_it():
    recorded = json.loads((report.RESULTS / "encoding.json").read_text())
    for one in recorded.values():
        assert one["missed"] == encoding.missed(one["collections"])
    assert recorded["with VNNI"]["missed"] == []


def test_the_plan_takes_the_slowest_core_that_was_measured():
    def rows(speed):
        return {"rows": [{"way": encoding.BASE, "docs/s": 9.0}, {"way": encoding.FAST, "docs/s": speed}]}

    gpu, gpus, cpus = scale_plan.places(
        {
            "with VNNI": {"collections": {"one": rows(41.9), "other": rows(30.7)}},
            "without VNNI": {"collections": {"one": rows(8.0)}},
        }
    )
    assert cpus.docs == 16 * 30 and (gpu.machines, gpus.machines, cpus.machines) == (1, 8, 16)
    assert "| `SQ8` | 384 | 3.4 (3.4) | 38.4 (38.4) | 384.0 (384.0) | 0.900, 9 vectors |" in scale_plan.index_table(
        [built("SQ8", size, 1.0, 1, 1.0) | {"recall": {"ours": recall}} for size, recall in ((9, 0.9), (8, 1.0))]
    )


def test_the_commands_of_the_plan_print_the_hours_of_its_table():
    where = scale_plan.places(json.loads((report.RESULTS / "encoding.json").read_text()))
    lines = scale_plan.commands(where).strip("`").removeprefix("bash").replace("\\\n", " ").strip().splitlines()
    rows = scale_plan.marco_table(where).splitlines()[2:]
    assert len(lines) == len(rows) == 3
    for line, row in zip(lines, rows, strict=True):
        result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
        printed = [float(found) for found in re.findall(r"([\d.]+) hours at", result.output)]  # of texts, of the corpus
        cells = row.strip("| ").split(" | ")
        assert printed == [pytest.approx(float(cells[place]), abs=0.051) for place in (3, 2)]
        machines, total = int(re.search(r"--machines (\d+)", line)[1]), float(cells[4])
        assert total == pytest.approx(machines * (float(cells[2]) + float(cells[3])), abs=0.051 + 0.01 * machines)
        assert float(cells[6]) == pytest.approx(total * float(cells[5]), abs=0.051 * float(cells[5]) + 0.01)


def test_a_later_run_adds_its_cells_and_replaces_those_it_measured_again():
    def one(kind, size, **more):
        return {"kind": kind, "size": size} | more

    before = [one("Flat", 10_000), one("HNSW32", 10_000), one("Flat", 100_000)]
    found = scale.added(before, [one("HNSW32", 1_000_000), one("HNSW32", 10_000, again=True)])
    assert [(cell["size"], cell["kind"]) for cell in found] == [
        (10_000, "Flat"),
        (10_000, "HNSW32"),
        (100_000, "Flat"),
        (1_000_000, "HNSW32"),
    ]
    assert found[1]["again"]
