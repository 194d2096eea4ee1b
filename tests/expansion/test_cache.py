import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from pyterrier_expandr import GenerationCache
from pyterrier_expandr.expansion.backends.base import Generation, Request, Sampling

MODEL = {"sha256": "abc"}


def request(text="hi", samples=(0,), **sampling):
    return Request(({"role": "user", "content": text},), Sampling(**sampling), samples)


def test_what_is_put_comes_back_and_nothing_else(tmp_path):
    cache = GenerationCache(tmp_path / "c.sqlite")
    cache.put(MODEL, request(samples=(0, 1)), {0: Generation("a"), 1: Generation(" b\n\x00é", truncated=True)})
    assert cache.get(MODEL, request(samples=(1, 2))) == {1: Generation(" b\n\x00é", truncated=True)}
    assert GenerationCache(tmp_path / "c.sqlite").get(MODEL, request()) == {0: Generation("a")}
    assert len(cache) == 2


@pytest.mark.parametrize(
    ("model", "other"),
    [
        ({"sha256": "other"}, request()),
        (MODEL, request("ho")),
        (MODEL, request(temperature=0.9)),
        (MODEL, request(top_p=1.0)),
        (MODEL, request(max_new_tokens=7)),
        (MODEL, request(seed=1)),
    ],
)
def test_everything_that_decides_a_text_is_in_the_address(model, other):
    cache = GenerationCache()
    cache.put(MODEL, request(), {0: Generation("a")})
    assert cache.get(model, other) == {}


def test_the_first_text_of_a_sample_stays():
    cache = GenerationCache()
    cache.put(MODEL, request(), {0: Generation("first")})
    cache.put(MODEL, request(), {0: Generation("second")})
    assert cache.get(MODEL, request())[0].text == "first"


def test_records_are_readable_without_the_model(tmp_path):
    cache = GenerationCache(tmp_path / "c.sqlite")
    cache.put(MODEL, request("q é", seed=3), {4: Generation("text")})
    (record,) = cache.records()
    assert record["model"] == MODEL and record["messages"] == [{"role": "user", "content": "q é"}]
    assert (record["sample"], record["seed"], record["text"], record["truncated"]) == (4, 3, "text", False)
    rows = sqlite3.connect(tmp_path / "c.sqlite").execute("SELECT text FROM generation").fetchall()
    assert rows == [("text",)]


WRITER = """
import sys, time
from pyterrier_expandr import GenerationCache
from pyterrier_expandr.expansion.backends.base import Generation, Request, Sampling
cache = GenerationCache(sys.argv[1])
for i in range(int(sys.argv[3])):
    r = Request(({"role": "user", "content": f"{sys.argv[2]}{i}"},), Sampling())
    cache.put({"sha256": "abc"}, r, {0: Generation(f"text {i}")})
    print(i, flush=True)
    if len(sys.argv) > 4: time.sleep(0.01)
"""


def test_two_processes_share_a_file(tmp_path):
    path = str(tmp_path / "c.sqlite")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "100"], stdout=subprocess.DEVNULL) for name in "ab"
    ]
    assert [w.wait(60) for w in writers] == [0, 0]
    cache = GenerationCache(path)
    assert len(cache) == 200
    assert cache.get(MODEL, request("b99")) == {0: Generation("text 99")}


OPENER = """
import sys
from pyterrier_expandr import GenerationCache
for place in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    GenerationCache(place)
"""


def test_processes_that_open_a_new_file_at_once_wait_for_each_other(tmp_path):
    paths = [str(tmp_path / f"{i}.sqlite") for i in range(40)]
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        for _ in range(3)
    ]
    try:
        for _ in paths:
            # A process that failed says nothing more: then the exit codes below tell.
            if not all(opener.stdout.readline() for opener in openers):
                break
            for opener in openers:
                opener.stdin.write(b"go\n")
    finally:
        for opener in openers:
            opener.communicate(timeout=60)
    assert [opener.returncode for opener in openers] == [0, 0, 0]


def test_a_killed_process_loses_nothing_that_it_had_put(tmp_path):
    path = str(tmp_path / "c.sqlite")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, "k", "100000", "slow"], stdout=subprocess.PIPE, text=True
    )
    for line in writer.stdout:
        if int(line) == 25:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    cache = GenerationCache(path)
    assert all(cache.get(MODEL, request(f"k{i}")) == {0: Generation(f"text {i}")} for i in range(26))


class TestBadFiles:
    def test_a_newer_format(self, tmp_path):
        path = tmp_path / "c.sqlite"
        GenerationCache(path).put(MODEL, request(), {0: Generation("a")})
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(ValueError, match="newer release"):
            GenerationCache(path)
        assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM generation").fetchone() == (1,)

    def test_no_database(self, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("my notes, many of them " * 100)
        with pytest.raises(ValueError, match="is not a cache, or is damaged"):
            GenerationCache(path)
        assert path.read_text().startswith("my notes")

    def test_another_program_s_database(self, tmp_path):
        path = tmp_path / "other.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
        connection.close()
        with pytest.raises(ValueError, match="not a generation cache"):
            GenerationCache(path)

    def test_a_truncated_file(self, tmp_path):
        path = tmp_path / "c.sqlite"
        cache = GenerationCache(path)
        for i in range(200):
            cache.put(MODEL, request(f"{i}"), {0: Generation("x" * 500)})
        cache.close()
        os.truncate(path, 10_000)
        with pytest.raises(ValueError, match=r"damaged|malformed"):
            list(GenerationCache(path).records())

    @pytest.mark.parametrize("path", ["missing/folder/c.sqlite", "file.txt/c.sqlite"])
    def test_a_place_that_cannot_be_written(self, tmp_path, path):
        (tmp_path / "file.txt").write_text("x")
        with pytest.raises(OSError, match="cannot write the cache"):
            GenerationCache(tmp_path / path)


def test_a_cache_that_is_forgotten_closes_its_file(tmp_path):
    cache = GenerationCache(tmp_path / "cache.sqlite")
    connection = cache._connection
    del cache
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
