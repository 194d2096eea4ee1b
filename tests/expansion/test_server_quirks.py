"""What servers do differently, on the loopback: fields they refuse, how they end texts, contexts, hostile answers."""

import gzip
import json
import re
import warnings
import zlib

import pytest

from pyterrier_expandr import GenerationCache, LLMExpander, open_backend
from pyterrier_expandr.expansion.backends import transport
from pyterrier_expandr.expansion.backends.base import Generation
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.expansion.generation import generate_cached
from tests.backend_contract import ask
from tests.servers import JSON, FaultyServer, completion, echo

pytestmark = pytest.mark.usefixtures("no_key")


def backend(server, **options):
    return OpenAIBackend("m", base_url=server.url, **{"max_retries": 0, "concurrency": 1, **options})


def refusal(message, status=400):
    return status, JSON, json.dumps({"error": {"message": message}}).encode()


def refusing(**messages):
    """A model that refuses the fields that are named, each with its message, and otherwise says the prompt."""

    def behave(body, number):
        for field, message in messages.items():
            if field in body:
                return refusal(message)
        return 200, {}, completion(body["messages"][-1]["content"])

    return behave


OPENAI = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model. "
    "Only the default (1) value is supported.",
    "top_p": "Unsupported parameter: 'top_p' is not supported with this model.",
}


class TestRefusedFields:
    def test_learned_once_recorded_and_warned_about_once(self):
        cache = GenerationCache()
        with FaultyServer(refusing(**OPENAI)) as server:
            first = backend(server)
            with pytest.warns(UserWarning, match="does not take temperature, top_p.*cannot be repeated") as caught:
                generate_cached(first, [ask(f"q{i}", temperature=0.7) for i in range(4)], cache)
            assert len(caught) == 1
            assert len(server.bodies) == 3 + 4  # each field is refused once
            assert set(server.bodies[-1]) == {"model", "messages", "max_completion_tokens", "seed"}
            assert first.fingerprint()["not_honoured"] == ["temperature", "top_p"]
            # Another process knows it, finds every text, and sends nothing.
            again = backend(server)
            assert again.fingerprint() == first.fingerprint() and again == first
            texts = generate_cached(again, [ask(f"q{i}", temperature=0.7) for i in range(4)], cache)
            assert [t[0].text for t in texts] == ["q0", "q1", "q2", "q3"] and len(server.bodies) == 7
        assert all(record["model"]["not_honoured"] == ["temperature", "top_p"] for record in cache.records())

    def test_another_name_is_no_loss(self):
        with FaultyServer(refusing(max_tokens=OPENAI["max_tokens"])) as server, warnings.catch_warnings():
            warnings.simplefilter("error")
            renamed = backend(server)
            renamed.generate([ask("q", max_new_tokens=9)])
            assert server.bodies[-1]["max_completion_tokens"] == 9 and "max_tokens" not in server.bodies[-1]
            assert renamed.fingerprint() == {"engine": "openai", "base_url": server.url, "model": "m"}

    @pytest.mark.parametrize(
        ("field", "status", "message"),
        [
            ("seed", 400, "Unrecognized request argument supplied: seed"),
            ("seed", 400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
            ("seed", 422, '{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}'),
            ("top_p", 400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
            ("temperature", 400, "`temperature` is deprecated for this model."),
        ],
    )
    def test_as_other_servers_say_it(self, field, status, message):
        def behave(body, number):
            return refusal(message, status) if field in body else (200, {}, completion("sky"))

        with FaultyServer(behave) as server, pytest.warns(UserWarning, match=f"does not take {field}:"):
            one = backend(server)
            assert one.generate([ask("q")])[0][0].text == "sky"
        assert len(server.bodies) == 2 and one.fingerprint()["not_honoured"] == [field]

    def test_what_did_not_help_is_not_learned(self):
        with FaultyServer(lambda *_: refusal("Unsupported parameter: 'seed'")) as server:
            one = backend(server)
            with pytest.raises(ValueError, match="Unsupported parameter"):
                one.generate([ask("q")])
            assert len(server.bodies) == 2 and "not_honoured" not in backend(server).fingerprint()


class TestAnswers:
    @pytest.mark.parametrize(
        ("reason", "cut"),
        [("eos", False), ("stop_sequence", False), (None, False), ("EOS_TOKEN", False), ("max_tokens", True)],
    )
    def test_how_a_text_ended(self, reason, cut):
        with FaultyServer(lambda *_: (200, {}, completion("sky", reason=reason))) as server:
            assert backend(server).generate([ask("q")]) == [[Generation("sky", truncated=cut)]]

    def test_parts_are_joined_and_thoughts_left_out(self):
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
        parts += [{"type": "text", "text": "The sky"}, {"type": "text", "text": " is blue."}]
        with FaultyServer(lambda *_: (200, {}, completion(parts))) as server:
            assert backend(server).generate([ask("q")]) == [[Generation("The sky is blue.")]]

    def test_a_part_of_another_kind_is_no_text(self):
        parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]
        with (
            FaultyServer(lambda *_: (200, {}, completion(parts))) as server,
            pytest.raises(ConnectionError, match="did not answer with a completion"),
        ):
            backend(server).generate([ask("q")])

    @pytest.mark.parametrize(("reason", "cut"), [("length", True), ("stop", False)])
    def test_a_thought_that_is_kept_apart_and_no_text(self, reason, cut):
        body = json.loads(completion(None, reason=reason))
        body["choices"][0]["message"]["reasoning_content"] = "hm"
        with FaultyServer(lambda *_: (200, {}, json.dumps(body).encode())) as server:
            assert backend(server).generate([ask("q")]) == [[Generation("", truncated=cut)]]

    def test_a_refusal_is_empty_and_counted_once(self, tmp_path):
        body = json.loads(completion(None))
        body["choices"][0]["message"]["refusal"] = "I'm sorry, but I can't."
        with FaultyServer(lambda *_: (200, {}, json.dumps(body).encode())) as server:
            expander = LLMExpander(backend(server), cache=tmp_path / "c.sqlite")
            with pytest.warns(UserWarning, match=re.escape("1 expansions came back empty (1 refused)")):
                assert expander.search("sky")["query_expansions"][0] == []
            assert expander.search("sky")["query_expansions"][0] == []  # from the cache, without a warning
            assert len(server.bodies) == 1


def test_the_tokens_that_a_server_reports_are_told_with_their_cost(capsys):
    body = json.loads(completion("Air scatters light."))
    body["usage"] = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    with FaultyServer(lambda *_: (200, {}, json.dumps(body).encode())) as server:
        name = f"openai:m@{server.url}?prices=[10000,20000]"
        LLMExpander(open_backend(name), max_new_tokens=64, verbose=True).search("sky")
    said = capsys.readouterr().err
    assert "Generating: 1 texts requested, 0 of them cached; at most 64 tokens to write" in said
    assert "20 tokens in, 5 tokens out" in said and "cost 0.3000 at the given prices" in said
    assert open_backend(name).fingerprint() == open_backend(name.partition("?")[0]).fingerprint()
    for wrong in ((1.0,), (1.0, -2.0)):
        with pytest.raises(ValueError, match="prices must be two numbers"):
            OpenAIBackend("m", base_url="http://localhost:1/v1", prices=wrong)


def words_of(body):
    return len(body["messages"][-1]["content"].split())


def limited(context, *, count="This model's maximum context length is {} tokens and your request has {} input tokens"):
    """A server with a token for each word and a context."""

    def behave(body, number):
        tokens = words_of(body)
        if tokens + body["max_tokens"] > context:
            return refusal(count.format(context, tokens))
        answer = json.loads(completion("sky")) | {
            "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        }
        return 200, {}, json.dumps(answer).encode()

    return behave


class TestContext:
    def test_the_error_says_which_query_and_how_many_tokens(self):
        with FaultyServer(limited(100)) as server:
            said = "a prompt of 211 tokens and max_new_tokens=16 exceed the context.*it is 'which river"
            with pytest.raises(ValueError, match=said):
                backend(server).generate([ask("short"), ask("which river " + "word " * 209)])

    def test_a_query_is_cut_where_the_server_tells_its_limit(self):
        with FaultyServer(limited(400)) as server:
            server.models["data"][0]["max_model_len"] = 400
            expander = LLMExpander(backend(server), max_new_tokens=16)
            with pytest.warns(UserWarning, match="1 queries were cut"):
                assert expander.search("word " * 600)["query_expansions"][0] == ["sky"]
            # one token for each word, so as many of them as fit
            assert words_of(server.bodies[-1]) == 400 - 16 and server.bodies[-1]["max_tokens"] == 16
        # Without the server the limit is known, as is the text of a short query.
        assert OpenAIBackend("m", base_url=server.url).context_length == 400

    def test_short_queries_cost_no_request_more(self):
        with FaultyServer() as server:
            server.models["data"][0]["max_model_len"] = 2048
            LLMExpander(backend(server)).search("sky")
            assert len(server.bodies) == 1

    def test_a_server_that_tells_no_limit_gets_everything(self):
        with FaultyServer() as server:
            LLMExpander(backend(server)).search("word " * 600)
            assert len(server.bodies) == 1 and words_of(server.bodies[0]) > 600


class TestHostileAnswers:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_to_another_port_is_refused_by_name(self, status):
        with FaultyServer() as other, FaultyServer() as server:
            target = f"http://127.0.0.1:{other.port}"
            server.behave = lambda *_: (status, {"Location": f"{target}/v1/chat/completions?q=1"}, b"")
            with pytest.raises(ConnectionError, match=f"redirects to another server, {re.escape(target)}, .*base_url"):
                backend(server, max_retries=3).generate([ask("secret")])
            assert other.bodies == [] and len(server.bodies) == 1

    def test_a_redirect_on_the_same_server_is_followed(self):
        def behave(body, number):
            return (307, {"Location": "/v1/elsewhere"}, b"") if number == 0 else echo(body)

        with FaultyServer(behave) as server:
            assert backend(server).generate([ask("sky")])[0][0].text.startswith("sky #")
            assert server.bodies[0] == server.bodies[1]

    def test_redirects_in_a_circle_end(self):
        with FaultyServer(lambda *_: (307, {"Location": "/v1/chat/completions"}, b"")) as server:
            with pytest.raises(ConnectionError, match="redirects more than 5 times"):
                backend(server, max_retries=3).generate([ask("sky")])
            assert len(server.bodies) == 6

    @pytest.mark.parametrize("status", [200, 400, 500])
    @pytest.mark.parametrize("kind", ["plain", "gzip", "deflate"])
    def test_an_answer_beyond_the_limit_is_given_up(self, monkeypatch, kind, status):
        monkeypatch.setattr(transport, "LARGEST_ANSWER", 100_000)
        body = completion("x" * 10_000_000)
        pack = {"plain": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[kind]
        headers = {} if kind == "plain" else {"Content-Encoding": kind}
        with FaultyServer(lambda *_: (status, headers, pack(body))) as server:
            with pytest.raises(ConnectionError, match="an answer of more than 100000 bytes"):
                backend(server, max_retries=2).generate([ask("sky")])
            assert len(server.bodies) == 1

    def test_a_compressed_answer_is_read(self):
        with FaultyServer(lambda *_: (200, {"Content-Encoding": "gzip"}, gzip.compress(completion("sky")))) as server:
            assert backend(server).generate([ask("q")])[0][0].text == "sky"
            assert server.headers[0]["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [("br", b"x"), ("gzip", b"no gzip"), ("gzip", gzip.compress(b"cut" * 99)[:20])],
        ids=["another", "not compressed", "cut"],  # a gzip header holds the time: workers must name the test alike
    )
    def test_a_compression_that_cannot_be_read(self, encoding, body):
        with (
            FaultyServer(lambda *_: (200, {"Content-Encoding": encoding}, body)) as server,
            pytest.raises(ConnectionError, match="did not answer with a completion: an answer"),
        ):
            backend(server).generate([ask("q")])

    @pytest.mark.parametrize("status", [200, 400, 401, 404, 503])
    def test_escape_sequences_reach_no_terminal(self, status):
        body = "\x1b]0;owned\x07 \x9b2J \u202e no".encode()
        with (
            FaultyServer(lambda *_: (status, {"Content-Type": "text/plain"}, body)) as server,
            pytest.raises((ValueError, ConnectionError), match=r"\\x1b\]0;owned\\x07") as caught,
        ):
            backend(server).generate([ask("q")])
        assert all(c.isprintable() or c == "\n" for c in str(caught.value))
