"""A language model in bfloat16 on a CPU that only imitates it: allowed, since texts are the same as elsewhere, and said."""

import logging

import pytest

from pyterrier_expandr import HuggingFaceBackend
from pyterrier_expandr.common import hardware
from pyterrier_expandr.common.hardware import warn_of_slow_dtype, warn_of_slow_integers


@pytest.mark.parametrize(("flags", "warned"), [("fpu avx2", 1), ("avx512f avx512_bf16", 0), ("amx_bf16", 0)])
def test_bfloat16_on_a_cpu_without_it(tmp_path, monkeypatch, caplog, flags, warned):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(hardware, "PROCESSOR", tmp_path / "cpuinfo")
    for dtype, device in (("bfloat16", "cpu"), ("float32", "cpu"), ("bfloat16", "cuda")):
        warn_of_slow_dtype(dtype, device)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "this CPU has no arithmetic in bfloat16, so float32 is many times as fast"
    ] * warned


@pytest.mark.parametrize(("flags", "warned"), [("fpu avx2", 1), ("avx2 avx_vnni", 0), ("fp asimd asimddp", 0)])
def test_integers_on_a_cpu_without_vnni(tmp_path, monkeypatch, caplog, flags, warned):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nFeatures : {flags}\n")
    monkeypatch.setattr(hardware, "PROCESSOR", tmp_path / "cpuinfo")
    warn_of_slow_integers()
    assert ["8-bit integers" in record.message for record in caplog.records] == [True] * warned


def test_the_backend_says_so_when_it_opens_the_model(tiny_llama, tmp_path, monkeypatch, caplog):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    monkeypatch.setattr(hardware, "PROCESSOR", tmp_path / "cpuinfo")
    with caplog.at_level(logging.WARNING):
        HuggingFaceBackend(tiny_llama, device="cpu").load()
        assert "bfloat16" not in caplog.text
        HuggingFaceBackend(tiny_llama, dtype="bfloat16", device="cpu").load()
    assert "no arithmetic in bfloat16" in caplog.text
