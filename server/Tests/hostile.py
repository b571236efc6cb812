# SPDX-License-Identifier: MIT
"""What is cut, damaged, too much or killed: the server goes on, or is as it was when it begins anew. routes.py runs it."""

import hashlib
import http.client
import json
import os
import pathlib
import random
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from server import ENDLESS, HELLO, MODEL, PROGRAM, Server, raw, send, wait


def framed(server):
    """Requests as bytes: what is cut, too long or nonsense is refused, and the server goes on."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    body = b'{"prompt": "a", "max_tokens": 1}'
    assert raw(server, head + b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)) == 200
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    assert raw(server, chunked + b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])) == 200
    for data, statuses in [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", {400, 431, None}),
        (b"GET /health HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n", {400, 431, None}),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n", {400, 414, 431, 404, None}),
        (b"\0\1\2\3" * 100, {400, None}), (b"GET / HTTP/9.9\r\n\r\n", {400, 505, None}),
        (head + b"Content-Length: 100\r\n\r\n{", {400, None}), (chunked + b"5\r\n{", {400, None}),
        (head + b"Content-Length: -1\r\n\r\n{}", {400, None}), (head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", {400, None}),
        (head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", {400, None}),
        (chunked + b"zz\r\n{}\r\n0\r\n\r\n", {400, None}), (head + b"\r\n", {400}),
        (head + b"Content-Length: %d\r\n\r\n" % (17 << 20) + b" " * (17 << 20), {413, None}),
    ]:
        status = raw(server, data, ends=True)
        assert status in statuses, (data[:80], status)
        assert server.ask("GET", "/health")[0] == 200
    status, answer, _ = server.ask("POST", "/v1/completions", b" " * ((16 << 20) + 1))
    assert status == 413 and "16 MiB" in answer["error"]["message"], answer
    status, content, headers = server.ask("HEAD", "/health")
    assert status == 200 and content == b"", (status, content)
    # One connection serves several requests.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/tokenize", '{"content": "a"}')
        assert connection.getresponse().read() == b'{"tokens":[97],"count":1}' and connection.sock


def fuzzed(server):
    """Bodies by chance, from what is right and from nonsense: an answer or a 4xx in the form of errors, always."""
    chance = random.Random(5)
    values = [None, True, 0, -1, 1e300, 2**63, 2**64, -0.5, "", "a", "\0", "\ud83d\ude00", [], {}, [[]], [{}], {"a": []},
              [1, "a"], "x" * 5000, {"type": "json_schema"}, {"type": []}, [HELLO[0]], HELLO[0], [None], {"": None}]
    names = ["messages", "prompt", "input", "tools", "tool_choice", "response_format", "stop", "logit_bias", "n", "seed",
             "temperature", "logprobs", "top_logprobs", "echo", "stream", "stream_options", "state", "reasoning", "tokens",
             "content", "name", "encoding_format", "dimensions", "previous_response_id", "instructions", "text", "role",
             "type", "function", "schema", "json_schema", "properties", "max_output_tokens", "return_state"]

    def value(depth=3):
        kind = chance.random()
        if depth == 0 or kind < 0.6:
            return chance.choice(values)
        if kind < 0.8:
            return [value(depth - 1) for _ in range(chance.randint(0, 3))]
        return {chance.choice(names): value(depth - 1) for _ in range(chance.randint(0, 4))}

    routes = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize",
              "/v1/states"]
    for turn in range(1200):
        path = chance.choice(routes)
        body = {"max_tokens": 1, "max_output_tokens": 1}
        if chance.random() < 0.6:
            body.update({"messages": HELLO, "prompt": "a", "input": "a", "content": "a", "tokens": [1]})
        body.update({chance.choice(names): value() for _ in range(chance.randint(1, 3))})
        data = json.dumps(body).encode()
        if chance.random() < 0.1:
            place = chance.randrange(len(data))
            data = data[:place] + chance.randbytes(3) + data[place + chance.randint(0, 3):]
        status, answer, _ = server.ask("POST", path, data)
        assert status < 500 or status == 503, (path, data, status, answer)
        if status >= 400:
            assert set(answer["error"]) == {"message", "type", "param", "code"} and answer["error"]["message"], answer
    for name in server.ask("GET", "/v1/states")[1]["data"]:
        server.ask("DELETE", "/v1/states/" + name["id"])
    for path in ["/v1/states/..%2f..%2fetc", "/v1/states/a%00b", "/v1/states/" + "a" * 65, "/v1/states/%ff"]:
        assert server.ask("GET", path)[0] in [400, 404], path


def abandoned(server):
    """Connections that are opened and left, and readers that read nothing, keep nobody else from an answer."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    for _ in range(3):
        left = []
        for _ in range(500):
            left.append(socket.create_connection(("127.0.0.1", server.port)))
        for connection in left[::2]:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        readers = [send(server, **{**ENDLESS, "stream": True, "max_tokens": 50}) for _ in range(10)]
        assert server.complete(prompt="a", max_tokens=2)
        for connection in left + readers:
            connection.close()
    wait(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= before + 2)
    wait(lambda: server.metric("requests_active") == 0)


def drains():
    """After SIGTERM nothing new is taken, what runs ends or is cut, and the exit status is 0; before, it loads."""
    server = Server("--drain", "60")
    running = send(server, **{**ENDLESS, "max_tokens": 800})
    wait(lambda: server.metric("requests_active") == 1)
    server.process.send_signal(signal.SIGTERM)
    wait(lambda: server.ask("GET", "/health")[:2] == (503, {"status": "draining"}))
    for path, fields in [("/v1/completions", {"prompt": "a"}), ("/v1/completions", {"prompt": "a", "stream": True}),
                         ("/v1/chat/completions", {"messages": HELLO}), ("/v1/responses", {"input": "a"}),
                         ("/v1/embeddings", {"input": "a"}), ("/v1/states", {"prompt": "a"})]:
        status, answer, headers = server.ask("POST", path, fields)
        assert status == 503 and headers["Retry-After"] and answer["error"]["type"] == "server_error", (path, answer)
    data = b""
    while piece := running.recv(1 << 16):
        data += piece
    assert json.loads(data.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 800, data
    assert server.process.wait(30) == 0
    # Clients that have gone before their answers begin are not waited for.
    server = Server("--drain", "60")
    for _ in range(8):
        gone = send(server, **{**ENDLESS, "stream": True})
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    wait(lambda: server.metric("requests_active") == server.metric("requests_waiting") == 0)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    # More than can be written in this time; and somebody who has not asked yet.
    server = Server("--drain", "1", "--max-tokens", "1000000")
    running = [send(server, **{**ENDLESS, "max_tokens": 1000000, "stream": stream}) for stream in [False, True]]
    wait(lambda: server.metric("requests_active") == 2)
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"GET /health HTT")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([PROGRAM, MODEL, "--port", str(port)], stderr=subprocess.DEVNULL)
    statuses = set()
    while 200 not in statuses:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/health")
            statuses.add(connection.getresponse().status)
        except ConnectionError:
            pass
    assert statuses <= {200, 503}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def folder():
    """States in a folder survive a kill, serve two processes, belong to a key, and are refused when they are not whole."""
    with tempfile.TemporaryDirectory() as place, tempfile.NamedTemporaryFile("w") as file:
        file.write("one\ntwo\n")
        file.flush()
        options = ["--state-dir", place, "--api-key-file", file.name, "--log", "json"]
        text = "A database is a place for things. " * 8
        turn = {"prompt": text, "max_tokens": 8, "temperature": 0}
        more = {**turn, "prompt": text + "And more of it."}

        def ask(server, key="one", **fields):
            return server.ask("POST", "/v1/completions", {**more, **fields}, key=key)[1]

        def cached(answer):
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        first, second = Server(*options), Server(*options)
        first.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 4},
                  key="one")
        state = first.ask("POST", "/v1/states", {"prompt": text, "name": "größer"}, key="one")[1]
        answer = first.ask("POST", "/v1/responses", {"input": "Hello", "max_output_tokens": 4}, key="one")[1]["id"]
        (folder,) = pathlib.Path(place).iterdir()
        owner = hashlib.sha256(b"one").hexdigest()[:32]
        wait(lambda: list(folder.glob("c-*")))
        # While one is written, it has a name of its own.
        wait(lambda: all("-" in name.name for name in folder.iterdir()))
        assert all(name.name.split("-")[1] == owner for name in folder.iterdir()), list(folder.iterdir())
        assert not any(b"two" in name.read_bytes()[:200] for name in folder.iterdir())
        first.kill()
        # The other process goes on with the conversation, the state and the response; another key knows none of them.
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}, *HELLO]
        chat = {"messages": said, "max_tokens": 6, "temperature": 0}
        found = second.ask("POST", "/v1/chat/completions", chat, key="one")[1]
        assert cached(found) > len(text), found["usage"]
        fresh = second.ask("POST", "/v1/chat/completions", {**chat, "no_cache": True}, key="one")[1]
        assert fresh["choices"] == found["choices"] and cached(fresh) == 0
        assert cached(second.ask("POST", "/v1/chat/completions", chat, key="two")[1]) == 0
        assert second.ask("GET", f"/v1/states/{state['id']}", key="one")[1] == state
        assert [s["id"] for s in second.ask("GET", "/v1/states", key="one")[1]["data"]] == [state["id"]]
        assert second.ask("GET", "/v1/states", key="two")[1]["data"] == []
        assert second.ask("GET", f"/v1/states/{state['id']}", key="two")[0] == 404
        for key, status in [("one", 200), ("two", 404)]:
            body = {"input": "More", "previous_response_id": answer, "max_output_tokens": 4}
            assert second.ask("POST", "/v1/responses", body, key=key)[0] == status
        gone_on = second.ask("POST", "/v1/completions",
                             {**turn, "prompt": "And more of it.", "state": state["id"]}, key="one")[1]
        assert gone_on["choices"] == ask(second, no_cache=True)["choices"]
        second.kill()
        hostile(options, folder, chat, fresh, cached)


def hostile(options, folder, chat, fresh, cached):
    """Whatever has become of the files, the answers are the same."""
    for change in [lambda p: p.write_bytes(p.read_bytes()[:-9]), lambda p: p.write_bytes(b""),
                   lambda p: p.write_bytes(p.read_bytes()[:40] + b"x" + p.read_bytes()[41:]),
                   lambda p: p.write_bytes(p.read_bytes()[:-9] + b"123456789"), lambda p: (p.unlink(), p.mkdir()),
                   lambda p: (p.unlink(), os.mkfifo(p)), lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
                   lambda p: p.write_bytes(b"rwkv-serve 1 " + b"[" * 1000 + b"\n")]:
        saved = {path: path.read_bytes() for path in folder.glob("[cs]-*")}
        for path in saved:
            change(path)
        (folder / "c-x-y-z").write_bytes(b"")
        with Server(*options) as server:
            answer = server.ask("POST", "/v1/chat/completions", chat, key="one")[1]
            assert answer["choices"] == fresh["choices"] and cached(answer) == 0, answer
            for path in folder.glob("s-*"):
                assert server.ask("GET", "/v1/states/" + path.name.split("-", 2)[2], key="one")[0] == 404
            assert server.ask("GET", "/v1/states", key="one")[0] == 200
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, content in saved.items():
            path.write_bytes(content)
    with Server(*options) as server:
        assert cached(server.ask("POST", "/v1/chat/completions", chat, key="one")[1]) > 0


def killed():
    """A state that is being replaced when the process is killed is the old one or the new one."""
    with tempfile.TemporaryDirectory() as place:
        options = ["--state-dir", place, "--state-cache", "1M"]
        with Server(*options) as server:
            files = [server.ask("GET", f"/v1/states/{server.ask('POST', '/v1/states', {'prompt': text})[1]['id']}/file")[1]
                     for text in ["one text", "another one"]]
            server.ask("PUT", "/v1/states/mine/file", files[0])
            # The least recently used states are gone where there is no more room.
            for index in range(40):
                server.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": f"{index}"}],
                                                            "max_tokens": 1})
            assert server.metric("state_cache_bytes") <= 1 << 20
            wait(lambda: server.metric("state_folder_bytes") > 1 << 20)
        (folder,) = pathlib.Path(place).iterdir()
        assert sum(path.stat().st_size for path in folder.glob("c-*")) <= 8 << 20
        for delay in [0.01, 0.04, 0.08, 0.15]:
            server = Server(*options)

            def replace(server=server, delay=delay):
                try:
                    for turn in range(1000):
                        server.ask("PUT", "/v1/states/mine/file", files[turn % 2])
                        server.ask("POST", "/v1/chat/completions", {
                            "messages": [{"role": "user", "content": f"{turn} {delay}"}], "max_tokens": 1})
                except (OSError, http.client.HTTPException):
                    pass

            thread = threading.Thread(target=replace)
            thread.start()
            time.sleep(delay)
            server.kill()
            thread.join()
            with Server(*options) as server:
                assert server.ask("GET", "/v1/states/mine/file")[1] in files
                assert len(server.ask("GET", "/v1/states")[1]["data"]) == 3
