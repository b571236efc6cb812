# SPDX-License-Identifier: MIT
"""A server that is being tried, and how it is asked."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time

PROGRAM, MODEL = sys.argv[1:3]
HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = {"prompt": "a", "max_tokens": 4000, "logit_bias": {"0": -100}}


class Server:
    def __init__(self, *options, before=(), model=MODEL):
        command = [*before, PROGRAM, model, "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert line.startswith("listening on http://"), line
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def ask(self, method, path, body=None, key=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if key:
            headers["Authorization"] = "Bearer " + key
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        content = answer.read()
        if content and answer.headers.get_content_type() == "application/json":
            content = json.loads(content)
        return answer.status, content, answer.headers

    def complete(self, **fields):
        status, answer, _ = self.ask("POST", "/v1/completions", {"temperature": 0, **fields})
        assert status == 200, answer
        return answer

    def metric(self, name):
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(f"rwkv_{name} "):
                return float(line.split()[1])
        raise AssertionError(name)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, "SIGTERM did not end it with 0"


def send(server, path="/v1/completions", **fields):
    """Asks, and does not wait for the answer."""
    body = json.dumps(fields)
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def raw(server, data, ends=False):
    """Sends bytes, and then says that there are no more, if it ends; gives the status of the answer, if there is one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        try:
            connection.sendall(data)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        except ConnectionError:
            return None
    return int(answer.split()[1]) if answer else None


def events(server, request, path="/v1/completions"):
    """Reads a stream from a bare socket and checks its framing."""
    body = json.dumps({"temperature": 0, **request, "stream": True})
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
            if data.endswith(b"0\r\n\r\n"):
                break
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"text/event-stream" in head.lower(), head
    stream = b""
    while rest and (size := int(rest.split(b"\r\n", 1)[0], 16)):
        start = rest.index(b"\r\n") + 2
        stream, rest = stream + rest[start:start + size], rest[start + size + 2:]
    parts = stream.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""], parts[-3:]
    assert all(part.startswith(("data: {", ": ")) and "\n" not in part for part in parts[:-2]), parts
    if request.get("no_cache"):
        assert any(part.startswith(": ") for part in parts), "no sign of life"
    return [json.loads(part[6:]) for part in parts[:-2] if part.startswith("data: ")]


def wait(condition, seconds=10):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "never"
        time.sleep(0.01)


def run(tests, *arguments):
    for test in tests:
        if sys.argv[3:] and test.__name__ not in sys.argv[3:]:
            continue
        begin = time.time()
        test(*arguments)
        print(f"passed: {test.__name__} ({time.time() - begin:.1f} s)", flush=True)
