import asyncio
import email.utils
import importlib.util
import json
import logging
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from pyterrier_expandr import GenerationCache
from pyterrier_expandr.expansion.backends import retries
from pyterrier_expandr.expansion.backends.base import Generation
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.expansion.generation import generate_cached
from pyterrier_expandr.training.data.examples import TrainingExample
from pyterrier_expandr.training.preferences.candidates import CandidateSettings, generate_candidates
from tests.backend_contract import ANSWER, BackendContract, ask, generate_cached_until
from tests.command import expandr
from tests.servers import (
    DROP,
    HALF,
    JSON,
    FaultyServer,
    completion,
    echo,
    free_port,
    server_process,
    transformers_serve,
)
from tests.tiny import build_saying_llama, sampling_by_default

KEY = "sk-a-very-secret-key-0123456789"
pytestmark = pytest.mark.usefixtures("no_key")


def engine(server, **options):
    return OpenAIBackend("m", base_url=server.url, **{"max_retries": 1, **options})


def failing_on(text, answer):
    """Good answers, but `answer` to prompts that contain `text`."""
    return lambda body, number: answer if text in body["messages"][-1]["content"] else echo(body)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    if not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn")):
        pytest.skip("transformers serve needs fastapi and uvicorn")
    with transformers_serve(tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


class TestTransformersServe(BackendContract):
    """A real server; it seeds one global generator, hence one request at a time."""

    @pytest.fixture
    def backend(self, served, tiny_llama, tmp_path):
        folder = shutil.copytree(tiny_llama, tmp_path / "sampling")
        sampling_by_default(folder)
        return OpenAIBackend(str(folder), base_url=served, concurrency=1)

    @pytest.fixture
    def saying(self, served, tmp_path):
        build_saying_llama(tmp_path, ANSWER)
        return OpenAIBackend(str(tmp_path), base_url=served, concurrency=4)

    def test_from_the_command_line(self, served, tiny_llama, tmp_path):
        out, backend = tmp_path / "e.jsonl", f"openai:{tiny_llama}@{served}?concurrency=2"
        arguments = ["--collection", "pocket", "--limit", 3, "--n", 2, "--max-new-tokens", 8, "--out", out]
        assert "3 queries, 6 expansions" in expandr("expand", "--llm", backend, *arguments)
        assert len(out.read_text().splitlines()) == 3

    def test_an_unknown_model_fails(self, served):
        with pytest.raises(ConnectionError, match="after 1 tries"):
            OpenAIBackend("no/such-model", base_url=served, max_retries=0).generate([ask("x")])


class TestWhatIsSent:
    def test_each_sample_is_a_request_with_its_own_seed(self):
        asked = ask("sky", samples=(0, 5), temperature=0.8, top_p=0.7, max_new_tokens=9)
        with FaultyServer() as server:
            texts = engine(server, extra_body={"top_k": -1}).generate([asked])[0]
        seeds = [asked.sample_seed(sample) % 2**31 for sample in (0, 5)]
        assert [t.text for t in texts] == [f"sky #{seed}" for seed in seeds]
        for body in server.bodies:
            assert body.pop("seed") in seeds
            assert body == {
                "model": "m",
                "messages": [{"role": "user", "content": "sky"}],
                "temperature": 0.8,
                "top_p": 0.7,
                "max_tokens": 9,
                "top_k": -1,
            }

    def test_results_are_in_order_and_requests_in_flight_are_bounded(self):
        def slowest_first(body, number):
            time.sleep(1 if number < 8 else 0.02)  # long enough for a busy machine to have all 8 in flight
            return echo(body)

        requests = [ask(f"question {i}", samples=(0, 1)) for i in range(20)]
        with FaultyServer(slowest_first) as server:
            texts = engine(server, concurrency=8).generate(requests)
        assert [t[1].text for t in texts] == [
            f"question {i} #{r.sample_seed(1) % 2**31}" for i, r in enumerate(requests)
        ]
        assert server.most_open == 8

    def test_a_finished_request_is_given_while_others_run(self):
        def behave(body, number):
            time.sleep(3 if "slow" in body["messages"][-1]["content"] else 0)
            return echo(body)

        with FaultyServer(behave) as server:
            start = time.monotonic()
            stream = engine(server).stream([ask("a slow one"), ask("quick")])
            assert next(stream)[0] == 1 and time.monotonic() - start < 2
            stream.close()  # gives up the slow one
            assert time.monotonic() - start < 2.5

    def test_the_key_goes_into_the_header_and_nowhere_else(self, monkeypatch, tmp_path, caplog):
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("OTHER_KEY", f" {KEY}\n")
        cache = GenerationCache(tmp_path / "c.sqlite")
        with FaultyServer() as server:
            backend = engine(server, api_key_env="OTHER_KEY")
            generate_cached(backend, [ask("sky")], cache)
        cache.close()
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        for place in (repr(backend), str(backend.fingerprint()), caplog.text, str(vars(backend))):
            assert KEY not in place
        assert KEY.encode() not in stored and KEY.encode() not in pickle.dumps(backend)

    def test_inside_a_running_event_loop_as_in_a_notebook(self):
        async def cell():
            return engine(server).generate([ask("sky")])

        with FaultyServer() as server:
            assert asyncio.run(cell())[0][0].text.startswith("sky #")


class TestRetries:
    def test_a_pause_that_the_server_asks_for_is_kept(self):
        def busy_once(body, number):
            return (429, {"Retry-After": "1"}, b"{}") if number == 0 else echo(body)

        with FaultyServer(busy_once) as server:
            assert engine(server).generate([ask("sky")])[0][0].text.startswith("sky #")
        assert 1 <= server.times[1] - server.times[0] < 20  # a busy machine adds seconds

    def test_a_date_to_come_back_at_is_kept(self):
        def busy_once(body, number):
            date = email.utils.formatdate(time.time() + 2, usegmt=True)  # whole seconds, hence 1 to 2 from now
            return (503, {"Retry-After": date}, b"{}") if number == 0 else echo(body)

        with FaultyServer(busy_once) as server:
            assert engine(server).generate([ask("sky")])[0][0].text.startswith("sky #")
        assert 1 <= server.times[1] - server.times[0] < 20

    def test_a_pause_beyond_the_deadline_is_not_waited_for(self):
        with FaultyServer(lambda body, number: (429, {"Retry-After": "3600"}, b"quota")) as server:
            start = time.monotonic()
            with pytest.raises(
                TimeoutError, match=r"quota.*; the next try would be in (3[6-9]|4[0-5])\d\d s; 0 samples"
            ):
                engine(server, max_retries=5).generate([ask("sky")])
        assert time.monotonic() - start < 5 and len(server.bodies) == 1

    def test_pauses_grow_and_are_not_equal(self, monkeypatch):
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.1)
        failing = FaultyServer(lambda body, number: (500, {}, b"oh"))
        with failing as server, pytest.raises(ConnectionError, match="after 4 tries"):
            engine(server, max_retries=3).generate([ask("sky")])
        assert len(server.times) == 4
        pauses = [later - before for before, later in pairwise(server.times)]
        assert all(0.1 * 2**i <= pause < 0.1 * 2**i * 1.25 + 0.5 for i, pause in enumerate(pauses))
        drawn = {retries.pause_after(None, 3) for _ in range(20)}
        assert len(drawn) > 10 and min(drawn) >= 0.8 and max(drawn) <= 1

    @pytest.mark.parametrize("fault", ["500", "503", "drop", "slow", "half"])
    def test_a_fault_that_passes_does_no_harm(self, fault):
        def once(body, number):
            if number > 0:
                return echo(body)
            if fault == "slow":
                time.sleep(1)
            return {"drop": DROP, "slow": echo(body), "half": HALF}.get(fault) or (int(fault), {}, b"busy")

        with FaultyServer(once) as server:
            backend = engine(server, timeout=0.4)
            assert backend.generate([ask("sky")])[0][0].text == f"sky #{ask('sky').sample_seed(0) % 2**31}"
        assert len(server.bodies) == 2 and server.bodies[0] == server.bodies[1]

    def test_the_deadline_covers_all_tries(self):
        with FaultyServer(lambda body, number: (429, {"Retry-After": "60"}, b"{}")) as server:
            start = time.monotonic()
            with pytest.raises(
                TimeoutError, match=r"deadline=0.5 s for all\): .*; 0 samples of this call were written"
            ):
                engine(server, deadline=0.5).generate([ask("sky")])
        assert time.monotonic() - start < 5


class TestFaults:
    @pytest.mark.parametrize("answer", [(500, {}, b"oh"), (429, {}, b"{}"), DROP], ids=["500", "429", "drop"])
    def test_after_the_last_try_the_batch_fails_and_what_was_written_is_kept(self, answer):
        requests, cache = [ask(f"question {i}", samples=(0, 1)) for i in range(12)], GenerationCache()
        with FaultyServer(failing_on("question 7", answer)) as server:
            backend = engine(server, concurrency=30)
            with pytest.raises(ConnectionError, match="after 2 tries.*22 samples of this call were written"):
                generate_cached(backend, requests, cache)
            assert len(cache) == 22
            server.behave = echo
            before = len(server.bodies)
            texts = generate_cached(backend, requests, cache)
            assert len(server.bodies) - before == 2
        assert [t[0].text for t in texts] == [
            f"question {i} #{r.sample_seed(0) % 2**31}" for i, r in enumerate(requests)
        ]

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ((200, {"Content-Type": "text/html"}, b"<html><h1>It works!</h1></html>"), "<h1>It works"),
            ((200, {"Content-Type": "text/plain"}, b"Error: overloaded"), "Error: overloaded"),
            ((200, JSON, b'{"error": {"message": "overloaded"}}'), "overloaded"),
            ((200, JSON, b'["Error"]'), "Error"),
            ((200, JSON, b"null"), "None"),
            ((200, JSON, completion("half")[:40]), "did not answer with a completion"),
            ((200, JSON, b""), "did not answer with a completion"),
            ((200, JSON, completion("x", choices=0)), "0 choices instead of one"),
            ((200, JSON, completion("x", choices=3)), "3 choices instead of one"),
            ((200, JSON, completion(None)), "ended with 'stop' and the text None"),
            ((200, JSON, completion(["x"])), "the text"),
            ((200, JSON, completion("Error: worker died", reason="error")), "ended with 'error'"),
            ((200, JSON, completion("", reason="tool_calls")), "ended with 'tool_calls'"),
        ],
        ids=lambda value: None if isinstance(value, tuple) else value[:20],
    )
    def test_nothing_but_a_completion_is_taken_for_a_text(self, answer, said):
        cache = GenerationCache()
        with FaultyServer(failing_on("bad", answer)) as server:
            with pytest.raises(ConnectionError, match="did not answer with a completion") as caught:
                generate_cached(engine(server), [ask("good"), ask("bad")], cache)
            assert said in str(caught.value)
        assert [record["messages"][0]["content"] for record in cache.records()] == ["good"]

    def test_an_empty_turn_and_a_filtered_one_are_empty(self):
        answers = {
            "empty": completion(""),
            "filtered": completion("I can", reason="content_filter"),
            "thinking": completion(None, reason="length"),
        }
        with FaultyServer(lambda body, number: (200, JSON, answers[body["messages"][-1]["content"]])) as server:
            texts = engine(server).generate([ask(name) for name in answers])
        assert texts == [[Generation("")], [Generation("")], [Generation("", truncated=True)]]

    @pytest.mark.parametrize(
        ("status", "body", "said"),
        [
            (401, b'{"error": {"message": "Incorrect API key provided: %s"}}' % KEY.encode(), "its value was refused"),
            (403, b'{"error": {"message": "no"}}', "environment variable OPENAI_API_KEY"),
            (404, b'{"error": {"message": "The model `m` does not exist."}}', "has no model 'm'.*does not exist"),
            (400, b'{"error": {"message": "maximum context length is 8 tokens"}}', "context length.*max_new_tokens"),
            (422, b"Unexpected fields in the request", "refused a request.*Unexpected fields"),
        ],
    )
    def test_what_the_user_can_mend_is_not_tried_again(self, monkeypatch, caplog, status, body, said):
        import traceback

        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with (
            FaultyServer(lambda *_: (status, JSON, body)) as server,
            pytest.raises(ValueError, match=f"(?s){said}") as caught,
        ):
            engine(server, max_retries=5).generate([ask("sky")])
        assert len(server.bodies) == 1
        assert KEY not in "".join(traceback.format_exception(caught.value)) and KEY not in caplog.text

    def test_a_missing_key_is_said(self):
        with FaultyServer(lambda *_: (401, JSON, b"{}")) as server, pytest.raises(ValueError, match="it is not set"):
            engine(server).generate([ask("sky")])

    def test_no_server(self):
        with pytest.raises(ConnectionError, match="cannot be reached after 1 tries.*is the server running"):
            OpenAIBackend("m", base_url=f"http://127.0.0.1:{free_port()}/v1", max_retries=0).generate([ask("sky")])


def test_a_server_that_dies_costs_nothing_that_it_wrote(tmp_path):
    requests, cache, port = [ask(f"question {i}") for i in range(60)], GenerationCache(), free_port()
    backend = OpenAIBackend("m", base_url=f"http://127.0.0.1:{port}/v1", concurrency=4, max_retries=1)
    command = [sys.executable, "-m", "tests.servers", str(port), "0.05"]
    with server_process(command, port, tmp_path / "log") as process:
        stream = generate_cached_until(backend, requests, cache, 10, lambda: process.send_signal(signal.SIGKILL))
        with pytest.raises(ConnectionError, match="cannot be reached after 2 tries"):
            stream()
    kept = len(cache)
    assert 10 <= kept < 60
    with FaultyServer(port=port) as server:
        texts = generate_cached(backend, requests, cache)
        assert len(server.bodies) == 60 - kept
    assert [t[0].text for t in texts] == [f"question {i} #{r.sample_seed(0) % 2**31}" for i, r in enumerate(requests)]


INTERRUPTED = """
import sys
from pyterrier_expandr import GenerationCache
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.expansion.generation import generate_cached
from tests.backend_contract import ask
class Telling(GenerationCache):
    def put(self, *args):
        super().put(*args)
        print("stored", flush=True)
backend = OpenAIBackend("m", base_url=sys.argv[1], concurrency=4)
generate_cached(backend, [ask(f"question {i}") for i in range(100)], Telling(sys.argv[2]))
"""


def test_ctrl_c_stops_at_once_and_the_rerun_goes_on(tmp_path):
    def slow(body, number):
        time.sleep(0.1 if number < 12 else 30)
        return echo(body)

    with FaultyServer(slow) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path / "c.sqlite")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for _ in range(12):
                assert process.stdout.readline() == "stored\n"
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=20)[1]
        assert time.monotonic() - start < 15 and said.rstrip().endswith("KeyboardInterrupt")
        server.behave, cache = echo, GenerationCache(tmp_path / "c.sqlite")
        assert len(cache) == 12
        before = len(server.bodies)
        generate_cached(engine(server), [ask(f"question {i}") for i in range(100)], cache)
        assert len(server.bodies) - before == 88


def test_pairs_are_made_with_a_server_and_go_on_after_its_fault(tmp_path, minilm):
    def full_at_last(body, number):
        return echo(body) if number < 7 else (503, {}, b"no more")

    with FaultyServer(full_at_last) as server:
        backend = f"openai:m@{server.url}?max_retries=0&concurrency=1"
        arguments = ["train", "pairs", "--dataset", "pocket", "--limit", 2, "--llm", backend, "--encoder", minilm]
        arguments += ["--temperature", 0.8, "--samples", 4, "--threshold", -1, "--out", tmp_path / "pairs"]
        assert "7 samples of this call were written before" in expandr(*arguments, status=2)
        server.behave = echo
        before = len(server.bodies)
        assert "2 queries" in expandr(*arguments)
        assert len(server.bodies) - before == 2 * 4 + 2 - 7  # candidates and answers
    record = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert record["settings"]["llm"] == {"engine": "openai", "base_url": server.url, "model": "m"}


def test_a_slow_candidate_holds_no_other_query_up():
    last_query = threading.Event()

    def behave(body, number):
        said = body["messages"][-1]["content"]
        if "question 39" in said:
            last_query.set()
        if "question 0?" in said:
            assert last_query.wait(20), "the last query waits for the first"
        return echo(body)

    examples = [TrainingExample(f"{i}", f"question {i}?", ("d",), ("Air.",)) for i in range(40)]
    with FaultyServer(behave) as server:
        sets = list(generate_candidates(examples, engine(server), CandidateSettings(temperatures=(1.0,), samples=4)))
    assert [one.query_id for one in sets] == [example.query_id for example in examples] and last_query.is_set()


class TestSettings:
    @pytest.mark.parametrize(
        "url",
        [
            f"http://user:{KEY}@h/v1",
            f"https://{KEY}@h/v1",
            f"http://h/v1?api_key={KEY}",
            f"http://h/v1#{KEY}",
            f"http://h/{KEY}",
        ],
    )
    def test_a_key_in_the_url_is_refused_and_not_repeated(self, url, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with pytest.raises(ValueError, match="no user, query or key") as caught:
            OpenAIBackend("m", base_url=url)
        assert KEY not in str(caught.value)

    @pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://h/v1", "", "http://", "http://[h]"])
    def test_no_url(self, url):
        with pytest.raises(ValueError, match="base_url must be a URL such as"):
            OpenAIBackend("m", base_url=url)

    @pytest.mark.parametrize(
        "wrong", [{"concurrency": 0}, {"timeout": 0}, {"deadline": -1}, {"max_retries": -1}, {"extra_body": {"n": 2}}]
    )
    def test_settings_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OpenAIBackend("m", base_url="http://h/v1", **wrong)

    def test_an_address_in_the_cache_contacts_nothing(self):
        one = OpenAIBackend("m", base_url="http://nowhere.invalid/v1/")
        assert one.fingerprint() == {"engine": "openai", "base_url": "http://nowhere.invalid/v1", "model": "m"}
        assert one == OpenAIBackend("m", base_url="http://nowhere.invalid/v1") == pickle.loads(pickle.dumps(one))
        assert one != OpenAIBackend("m", base_url="http://other.invalid/v1")
        extra = OpenAIBackend("m", base_url="http://nowhere.invalid/v1", extra_body={"top_k": 5})
        assert extra.fingerprint() != one.fingerprint()

    def test_the_missing_package_is_named(self):
        code = (
            "import sys; sys.modules['openai'] = None\n"
            "from pyterrier_expandr.expansion.backends.openai import OpenAIBackend\n"
            "from tests.backend_contract import ask\n"
            "try: OpenAIBackend('m', base_url='http://h/v1').generate([ask('x')])\n"
            "except ImportError as error: assert 'pyterrier_expandr[openai]' in str(error); print('said')"
        )
        assert "said" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
