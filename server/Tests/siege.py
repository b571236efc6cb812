# SPDX-License-Identifier: MIT
"""Ten thousand connections, readers that do not read, keys that are guessed, a proxy before two servers. routes.py runs it."""

import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from server import ENDLESS, Server, raw, send, wait

# All of them where they are asked for by name.
CONNECTIONS = 10_000 if "many" in sys.argv else 2_000


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def memory(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) << 10


def raise_limit():
    """As many open files as may be; how many connections that is, on both sides."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(CONNECTIONS, hard - 500)


def many():
    """Connections that are opened and left, silent or in the middle of a request, and closed in any way."""
    count = raise_limit()
    with Server("--idle", "300") as server:
        before, used = descriptors(server), memory(server)
        left = []
        for index in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port))
            if index % 3 == 1:
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            elif index % 3 == 2:
                connection.sendall(b"GET /health HTT")
            left.append(connection)
        assert server.complete(prompt="a", max_tokens=2)
        wait(lambda: descriptors(server) >= before + count, 60)
        each = (memory(server) - used) / count
        assert each < 100_000, f"{each:.0f} bytes for a connection"
        for index, connection in enumerate(left):
            if index % 2:  # without a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        wait(lambda: descriptors(server) <= before + 2, 60)
        print(f"  {count} connections of {each / 1000:.1f} kB")
    # Who says nothing is sent away.
    with Server("--idle", "1") as server:
        before = descriptors(server)
        left = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
        for connection in left[::2]:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        wait(lambda: descriptors(server) <= before + 2)
        assert all(connection.recv(100) == b"" for connection in left[1::2])


def slow():
    """Who does not read what it asked for is sent away; nobody waits for it meanwhile, and nothing of it is left."""
    with Server("--idle", "1", "--parallel", "2") as server:
        before = descriptors(server)
        readers = []
        for _ in range(3):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            body = json.dumps({**ENDLESS, "max_tokens": 1500, "stream": True, "logprobs": 20})
            connection.sendall(
                f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            readers.append(connection)
        wait(lambda: server.metric("requests_active") == 2)
        wait(lambda: descriptors(server) <= before + 1, 60)
        wait(lambda: server.metric("requests_active") == 0)
        assert server.complete(prompt="a", max_tokens=2)
        # Whoever reads slowly, but reads, gets all of it.
        connection = send(server, stream=True, **{**ENDLESS, "max_tokens": 200})
        data = b""
        while piece := connection.recv(2000):
            data += piece
            if len(data) < 20_000:
                time.sleep(0.1)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert b"data: [DONE]" in data


def guessed():
    """Keys by chance, and what looks like a key: 401 always, in the same words, and no key in them."""
    key = "a-long-key-that-nobody-knows"
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(key + "\n")
        file.flush()
        with Server("--api-key-file", file.name, "--log", "json") as server:
            guesses = [key[:end] for end in range(len(key))] + [key + "x", key.upper(), " " + key, key[::-1], "\0", "*", "a" * 60_000]
            answers = set()
            for guess in guesses:
                for scheme in ["Bearer ", "bearer ", "Basic ", ""]:
                    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
                    status = raw(server, head + (scheme + guess).encode() + b"\r\n\r\n")
                    assert status in [401, 400], (scheme, guess, status)
            for guess in guesses[1:20]:
                status, answer, _ = server.ask("GET", "/v1/states", key=guess)
                assert status == 401
                answers.add(json.dumps(answer))
            assert len(answers) == 1 and key not in answers.pop()
            for path in ["/v1/models", "/metrics", "/tokenizer_info", "/v1/states", "/nothing"]:
                assert server.ask("GET", path)[0] == 401, path
            big = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"a" * (1 << 20) + b"\r\n\r\n"
            assert raw(server, big) in [400, 431, None]
            assert server.ask("GET", "/v1/models", key=key)[0] == 200


def proxied():
    """Two servers behind nginx as docs/serving.md has it: a conversation stays on one, and goes on on the other."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        return print("skipped: no nginx")
    document = (pathlib.Path(__file__).parents[2] / "docs/serving.md").read_text()
    wanted = re.search(r"```nginx\n(.*?)```", document, re.DOTALL)[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--template", "g1", "--state-dir", folder + "/states"]
        servers = [Server(*options), Server(*options)]
        for server, address in zip(servers, re.findall(r"server (\S+:\d+)", wanted)):
            wanted = wanted.replace(address, f"127.0.0.1:{server.port}")
        wanted = wanted.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
        wanted = re.sub(r" *ssl_.*\n", "", wanted)
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        pathlib.Path(folder + "/nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{wanted} }}")
        proxy = subprocess.Popen([nginx, "-p", folder, "-e", folder + "/log", "-c", folder + "/nginx.conf"])
        try:
            converse(port, servers)
        finally:
            proxy.terminate()
            proxy.wait()
            for server in servers:
                server.kill()


def converse(port, servers):
    def ask(conversation, messages, stream=False):
        body = json.dumps({"messages": messages, "max_tokens": 20, "temperature": 0, "stream": stream,
                           "stream_options": {"include_usage": True}})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/chat/completions", body, {"X-Conversation": conversation})
        answer = connection.getresponse()
        data = answer.read().decode()
        assert answer.status == 200, data
        if not stream:
            return json.loads(data)
        parts = [json.loads(part[6:]) for part in data.split("\n\n") if part.startswith("data: {")]
        text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts if part["choices"])
        return {"choices": [{"message": {"content": text}}], "usage": parts[-1]["usage"]}

    def up():
        try:
            with socket.create_connection(("127.0.0.1", port)):
                return True
        except OSError:
            return False

    wait(up)
    talks = {f"talk {index}": [{"role": "user", "content": f"Tell me of database {index}. " * 20}] for index in range(8)}
    places = {}

    def turn(name, **more):
        before = [server.metric("written_tokens_total") for server in servers if server.process.poll() is None]
        answer = ask(name, talks[name], **more)
        after = [server.metric("written_tokens_total") for server in servers if server.process.poll() is None]
        talks[name] += [{"role": "assistant", "content": answer["choices"][0]["message"]["content"]},
                        {"role": "user", "content": "And more?"}]
        return answer, [index for index, pair in enumerate(zip(before, after)) if pair[0] < pair[1]]

    for name in talks:
        answer, places[name] = turn(name)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert {tuple(place) for place in places.values()} == {(0,), (1,)}, places
    for name in talks:
        answer, place = turn(name, stream=True)
        assert place == places[name], "a conversation stays where its state is"
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 100, answer["usage"]
    wait(lambda: all(server.metric("state_folder_bytes") > 0 for server in servers))
    time.sleep(0.5)  # what was cached last is written
    expected = {name: servers[1].ask("POST", "/v1/chat/completions", {
        "messages": messages, "max_tokens": 20, "temperature": 0, "no_cache": True})[1]["choices"][0]
        for name, messages in talks.items()}
    servers[0].kill()
    for name in talks:
        answer, _ = turn(name)
        assert answer["choices"][0] == expected[name], "the same answer, whoever gives it"
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 100, (name, answer["usage"])
