#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries the routes of the server over bare sockets, and with openai-python.

    pip install openai==3.57.0
    server/Tests/routes.py rwkv-serve MODEL.rwkv

MODEL is the one in examples/model in any type. Without the package `openai`, its tests are left out; one line says so.
"""

import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

try:
    import openai
except ImportError:
    openai = None

PROGRAM, MODEL = sys.argv[1:3]


class Server:
    def __init__(self, *options):
        self.process = subprocess.Popen([PROGRAM, MODEL, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
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
        if answer.headers.get_content_type() == "application/json":
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, "SIGTERM did not end it with 0"


def operations(server):
    assert server.ask("GET", "/health")[:2] == (200, {"status": "ok"})
    # A connection that the server will close is said to close.
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})[2]["Connection"] == "close"
    for path in ["/v1/models", "/models"]:
        assert server.ask("GET", path)[1]["data"][0]["object"] == "model"
    assert b"<!doctype html>" in server.ask("GET", "/")[1]
    status, answer, _ = server.ask("GET", "/v1/nothing")
    assert status == 404 and answer["error"]["type"] == "invalid_request_error"


def errors(server):
    for path, body, parameter in [
        ("/v1/completions", b"{", None), ("/v1/completions", b"[]", None), ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("/v1/completions", {"prompt": [1 << 40]}, "prompt"), ("/v1/completions", {"prompt": "a", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}],
                                  "response_format": {"type": "json_schema"}}, "response_format.type"),
        ("/v1/embeddings", {}, "input"), ("/tokenize", {}, "content"),
    ]:
        status, answer, _ = server.ask("POST", path, body)
        assert status == 400, (path, body, status, answer)
        assert answer["error"]["param"] == parameter and answer["error"]["message"], (body, answer)
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "state": "none"})[0] == 404


def texts(server):
    plain = server.complete(prompt="The database", max_tokens=20)
    text = plain["choices"][0]["text"]
    assert plain["usage"] == {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32,
                              "prompt_tokens_details": {"cached_tokens": 0}}, plain["usage"]
    assert plain["choices"][0]["finish_reason"] == "length" and len(text) == 20
    ids = server.ask("POST", "/tokenize", {"content": "The database"})[1]["tokens"]
    assert server.complete(prompt=ids, max_tokens=20)["choices"][0]["text"] == text
    both = server.complete(prompt=["The database", "The"], max_tokens=5)["choices"]
    assert [choice["index"] for choice in both] == [0, 1] and both[0]["text"] == text[:5]
    cut = server.complete(prompt="The database", max_tokens=20, stop=text[4:7])["choices"][0]
    assert cut["text"] == text[:text.index(text[4:7])] and cut["finish_reason"] == "stop"
    echo = server.complete(prompt="The database", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    logprobs = echo["logprobs"]
    assert echo["text"] == "The database" and len(logprobs["tokens"]) == 12
    assert logprobs["token_logprobs"][0] is None and all(p < 0 for p in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"] == list(range(12))
    assert server.ask("POST", "/tokenize", {"prompt": "<|endoftext|>"})[1]["tokens"] == [0]
    assert server.ask("POST", "/detokenize", {"tokens": ids})[1]["content"] == "The database"


def determinism(server):
    """Alone, streamed, among others, with and without the cache: the same text."""
    requests = [{"prompt": "The " * (1 + 37 * i), "max_tokens": 5 + 3 * i, "temperature": 1, "seed": i} for i in range(16)]
    alone = [server.complete(**request)["choices"][0]["text"] for request in requests]
    again = [server.complete(**request)["choices"][0]["text"] for request in requests]
    assert again == alone and server.metric("state_cache_hits_total") > 0
    fresh = [server.complete(**request, no_cache=True)["choices"][0]["text"] for request in requests]
    assert fresh == alone
    together = [None] * len(requests)

    def one(index):
        if index % 2:
            together[index] = server.complete(**requests[index])["choices"][0]["text"]
        else:
            together[index] = "".join(c["choices"][0].get("text", "") for c in events(server, requests[index])
                                      if c["choices"])

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    choices = server.complete(prompt="The database", n=3, temperature=1, seed=7, max_tokens=9)["choices"]
    for offset, choice in enumerate(choices):
        other = server.complete(prompt="The database", temperature=1, seed=7 + offset, max_tokens=9)["choices"][0]
        assert choice["text"] == other["text"]


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
    return [json.loads(part[6:]) for part in parts[:-2] if part.startswith("data: ")]


def framing(server):
    chunks = events(server, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}, "/v1/chat/completions")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert not any("usage" in chunk for chunk in chunks)
    last = events(server, {"prompt": "a", "max_tokens": 3, "stream_options": {"include_usage": True}})[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3


def leaving(server):
    """A client that goes away frees its place, whether it was to get a stream or not."""
    for stream in [True, False]:
        body = json.dumps({"prompt": "a", "max_tokens": 4000, "stream": stream, "logit_bias": {"0": -100}})
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wait(lambda: server.metric("requests_active") == 1)
        connection.close()
        wait(lambda: server.metric("requests_active") == 0, seconds=2)


def wait(condition, seconds=10):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "never"
        time.sleep(0.01)


def states(server):
    status, state, _ = server.ask("POST", "/v1/states", {"prompt": "The data", "name": "first"})
    assert status == 201 and state["tokens"] == 8
    whole = server.complete(prompt="The database", max_tokens=10)["choices"][0]["text"]
    answer = server.complete(prompt="base", state=state["id"], max_tokens=10, return_state=True)
    assert answer["choices"][0]["text"] == whole
    more = server.complete(prompt=" is", state=answer["state"], max_tokens=5)["choices"][0]["text"]
    assert more == server.complete(prompt="The database" + whole + " is", max_tokens=5)["choices"][0]["text"]
    file = server.ask("GET", f"/v1/states/{state['id']}/file")[1]
    assert server.ask("PUT", "/v1/states/mine/file", file)[0] == 201
    assert server.complete(prompt="base", state="mine", max_tokens=10)["choices"][0]["text"] == whole
    assert server.ask("PUT", "/v1/states/broken/file", file[:-9] + b"123456789")[0] == 400
    fork = server.ask("POST", "/v1/states/mine/fork")[1]
    assert fork["id"] in [entry["id"] for entry in server.ask("GET", "/v1/states")[1]["data"]]
    assert server.ask("DELETE", "/v1/states/mine")[0] == 200 and server.ask("GET", "/v1/states/mine")[0] == 404


def keys():
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("one\ntwo\n")
        file.flush()
        with Server("--api-key-file", file.name, "--cors", "https://a.example") as server:
            assert server.ask("GET", "/v1/models")[0] == 401 and server.ask("GET", "/v1/models", key="on")[0] == 401
            assert server.ask("GET", "/health")[0] == 200 and server.ask("GET", "/v1/models", key="one")[0] == 200
            state = server.ask("POST", "/v1/states", {"prompt": "a"}, key="one")[1]["id"]
            assert server.ask("GET", f"/v1/states/{state}", key="one")[0] == 200
            assert server.ask("GET", f"/v1/states/{state}", key="two")[0] == 404
            allowed = server.ask("OPTIONS", "/v1/models", Origin="https://a.example")[2]
            assert allowed["Access-Control-Allow-Origin"] == "https://a.example"
            assert server.ask("OPTIONS", "/v1/models", Origin="https://b.example")[2]["Access-Control-Allow-Origin"] is None


def queue():
    with Server("--parallel", "1", "--queue", "1") as server:
        body = {"prompt": "a", "max_tokens": 3000, "logit_bias": {"0": -100}}
        connections = []
        for _ in range(2):
            data = json.dumps(body)
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(
                f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode())
            connections.append(connection)
        wait(lambda: server.metric("requests_waiting") == 1)
        for stream in [False, True]:
            status, answer, headers = server.ask("POST", "/v1/completions", {**body, "stream": stream})
            assert status == 429 and headers["Retry-After"] and answer["error"]["type"] == "rate_limit_error"
        assert server.ask("GET", "/health")[0] == 200
        for connection in connections:
            connection.close()


def openai_client(server):
    if openai is None:
        return print("skipped: no openai (pip install openai==3.57.0)")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
    assert client.models.list().data
    messages = [{"role": "user", "content": "Say it."}]
    whole = client.chat.completions.create(model="x", messages=messages, max_tokens=12, seed=1)
    stream = client.chat.completions.create(model="x", messages=messages, max_tokens=12, seed=1, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content and text
    found = client.chat.completions.create(
        model="x", messages=messages, max_tokens=60, response_format={"type": "json_object"}, temperature=0)
    assert found.choices[0].message.content.lstrip()[0] in "{["
    vectors = client.embeddings.create(model="x", input=["a text", "another"]).data
    raw = server.ask("POST", "/v1/embeddings", {"input": "a text", "encoding_format": "base64"})[1]["data"][0]["embedding"]
    values = struct.unpack(f"<{len(vectors[0].embedding)}f", base64.b64decode(raw))
    assert max(abs(a - b) for a, b in zip(values, vectors[0].embedding)) < 1e-7
    assert abs(sum(value * value for value in values) - 1) < 1e-5
    try:
        client.chat.completions.create(model="x", messages=[{"role": "x", "content": ""}])
        raise AssertionError("no error")
    except openai.BadRequestError as error:
        assert "role" in error.message


def main():
    with Server("--template", "none") as server:
        for test in [operations, errors, texts, determinism, framing, leaving, states, openai_client]:
            test(server)
            print("passed:", test.__name__, flush=True)
    for test in [keys, queue]:
        test()
        print("passed:", test.__name__, flush=True)


os.environ.pop("OPENAI_API_KEY", None)
main()
