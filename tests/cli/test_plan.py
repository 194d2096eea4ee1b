"""The estimate before a long run: sums that are right, and speeds that were measured."""

import re

import pytest
from typer.testing import CliRunner

from pyterrier_expandr import FaissIndex
from pyterrier_expandr.cli.commands import app
from pyterrier_expandr.cli.plan import Run, encoding_speed, plan_lines, writing_speed
from pyterrier_expandr.collections import pocket
from tests.retrieval.test_faiss_index import corpus


def planned(*arguments):
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_sums():
    run = Run(8_800_000, 7000, 32, 150.0, 2400.0, 500.0, 768, "Flat", machines=8)
    assert run.texts == 224_000
    assert run.writing_hours == pytest.approx(224_000 * 150 / 2400 / 8 / 3600)
    assert run.encoding_hours == pytest.approx((8_800_000 + 7000 + 224_000) / 500 / 8 / 3600)
    assert run.index_bytes == 8_800_000 * 768 * 4 and run.build_bytes == 0  # a stream
    small = Run(8_800_000, 7000, 32, 150.0, None, None, 768, "IVF4096,PQ96")
    assert small.index_bytes == 8_800_000 * (96 + 8)
    assert small.build_bytes == max(small.index_bytes, 163_840 * 768 * 4 * 2)
    refined = Run(1000, 1, 1, 1.0, None, None, 384, "OPQ48,IVF64,PQ48,Refine(SQ8)")  # FAISS owns indexes within indexes
    assert refined.index_bytes == 1000 * (48 + 8 + 384)
    assert "unknown, give --llm or --tokens-per-second" in "\n".join(plan_lines(small))


def test_bytes_of_the_index_are_those_on_disk(tmp_path):
    index = FaissIndex(tmp_path / "i", factory="SQ8").index(corpus(2000))
    run = Run(2000, 1, 1, 1.0, 1.0, 1.0, 16, "SQ8")
    assert (index.folder / "index.faiss").stat().st_size == pytest.approx(run.index_bytes, rel=0.01)


def test_speeds_are_measured_and_other_machines_may_be_named(minilm, tiny_llama):
    said = planned("--collection", "pocket", "--encoder", minilm, "--llm", tiny_llama, "--n", 3, "--max-new-tokens", 8)
    topics, documents = len(pocket().get_topics()), 242
    assert f"texts      {topics * 3:,} ({topics} queries x 3)" in said
    assert f"{documents} documents, {topics} queries, {topics * 3:,} texts" in said and "384 dimensions" in said
    assert float(re.search(r"at ([\d,]+) tokens/s", said)[1].replace(",", "")) > 1
    other = planned("--collection", "pocket", "--docs-per-second", 1000, "--documents", "36000000", "--machines", 10)
    assert "1.0 hours at 1,000 texts/s on each of 10 machines: 36,000,000 documents" in other
    assert "writing    unknown" in other and "110.59 GB for the index (Flat, 768 dimensions)" in other


def test_speed_and_tokens_are_those_of_the_model(minilm, tiny_llama):
    speed, dim = encoding_speed(minilm, "cpu", pocket().get_corpus_iter())
    assert dim == 384 and speed > 1
    tokens, rate = writing_speed(tiny_llama, "cpu", pocket().get_topics().head(2), 2, "q2d", 5)
    assert 1 <= tokens <= 5 and rate > 1


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="docs.per.second must be above 0"):
        planned("--collection", "pocket", "--docs-per-second", "-1")
    with pytest.raises(ValueError, match="FAISS cannot make an index"):
        planned("--collection", "pocket", "--factory", "nonsense")
