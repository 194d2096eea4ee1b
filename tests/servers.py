"""Servers on loopback: real ones in processes of their own, and one that fails as it is told."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: the headers of an answer in JSON
JSON = {"Content-Type": "application/json"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def server_process(command: list[str], port: int, log: Path, *, seconds: float = 600, **environment: str):
    """The process of `command`, once http://127.0.0.1:port/health answers; it is killed in the end."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
        try:
            end = time.monotonic() + seconds
            while not _healthy(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def transformers_serve(log: Path):
    """The base URL of `transformers serve`; the model's name is its folder."""
    port = free_port()
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    with server_process([*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], port, log):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def vllm_serve(folder: str | Path, *options: str, log: Path, name: str = "tiny"):
    """The base URL of vLLM's server with a model in float32, there called `name`."""
    port = free_port()
    # Not the command `vllm serve`, which asks for the version of a package "vllm" that the CPU build does not have.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    with server_process([*command, *options], port, log):
        yield f"http://127.0.0.1:{port}/v1"


def completion(text, *, reason="stop", choices=1) -> bytes:
    """The body of a good answer, or of one with another number of choices."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": i, "message": message, "finish_reason": reason} for i in range(choices)],
        }
    ).encode()


def echo(body, _number=0) -> tuple[int, dict[str, str], bytes]:
    """A good answer: the prompt and the seed."""
    return 200, {}, completion(f"{body['messages'][-1]['content']} #{body['seed']}")


HALF = (200, {"Content-Length": "9999"}, completion("half"))  # the connection ends before the answer
DROP = None  # what `behave` returns to close the connection without an answer


class FaultyServer:
    """A chat completions server that answers with what `behave(body, number of the call)` returns.

    That is (status, headers, bytes), or `DROP`. `models` is its list of models. It keeps the requests' bodies, headers and times, and the largest number of
    requests that were open at once.
    """

    def __init__(self, behave=echo, port: int = 0) -> None:
        self.behave, self.bodies, self.headers, self.times = behave, [], [], []
        self.open = self.most_open = 0
        self.models = {"object": "list", "data": [{"id": "m", "object": "model"}]}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # /health, /v1/models
                content = json.dumps(outer.models).encode() if self.path == "/v1/models" else b""
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append(self.headers)
                    outer.times.append(time.monotonic())
                    outer.open += 1
                    outer.most_open = max(outer.most_open, outer.open)
                try:
                    answer = outer.behave(body, number)
                finally:
                    with outer._lock:
                        outer.open -= 1
                if answer is DROP:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, content = answer
                self.send_response(status)
                defaults = {"Content-Type": "application/json", "Content-Length": str(len(content))}
                for name, value in (defaults | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = "Content-Length" in headers

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # clients that give up are part of the tests

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":  # python -m tests.servers PORT SECONDS: a good but slow server, to be killed

    def slow(body, number):
        time.sleep(float(sys.argv[2]))
        return echo(body)

    with FaultyServer(slow, int(sys.argv[1])):
        threading.Event().wait()
