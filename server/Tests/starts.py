#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Starts that fail, a start without /proc, the bound of a model that remembers every token, and states of two models.

    server/Tests/starts.py rwkv-serve 7B.rwkv RERANKER.rwkv OTHER.rwkv [TEST]...

7B.rwkv is an RWKV-7b with a tokenizer of bytes, OTHER.rwkv another model.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

from server import MODEL, PROGRAM, Server, events, run

RERANKER, OTHER = sys.argv.pop(3), sys.argv.pop(3)


def failed():
    """A start that fails says why in one line, and ends with 1."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        place = pathlib.Path(folder)
        (place / "empty").write_text("\n\n")
        (place / "broken.rwkv").write_bytes(pathlib.Path(MODEL).read_bytes()[:5000])
        (place / "other.rwkv").write_text("no model")
        for arguments, word in [
            ([MODEL, "--port", port], f"127.0.0.1:{port}: Address already in use"),
            ([MODEL, "--host", "192.0.2.1", "--port", "0"], "192.0.2.1:0"),
            ([MODEL, "--host", "no.such.host.invalid", "--port", "0"], "no.such.host.invalid"),
            ([MODEL, "--port", "0", "--api-key-file", folder + "/none"], "--api-key-file"),
            ([MODEL, "--port", "0", "--api-key-file", folder + "/empty"], "no key in"),
            ([folder + "/none.rwkv", "--port", "0"], "none.rwkv"),
            ([folder + "/broken.rwkv", "--port", "0"], "broken.rwkv"),
            ([folder + "/other.rwkv", "--port", "0"], "other.rwkv"),
            ([RERANKER, "--port", "0"], "is a reranker"),
            ([MODEL, "--port", "0", "--reranker", RERANKER], "--reranker"),
            ([MODEL, "--port", "0", "--template", folder + "/none"], "--template"),
            ([MODEL, "--port", "0", "--draft", RERANKER], "is a reranker"),
            ([MODEL, "--port", "0", "--state-dir", folder + "/empty"], "empty"),
        ]:
            result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
            lines = result.stderr.splitlines()
            assert result.returncode == 1 and result.stdout == "", (arguments, result)
            assert len(lines) == 1 and lines[0].startswith("rwkv-serve: ") and word in lines[0], (arguments, lines)
    for wrong in [["--max-context", "0"], ["--max-context", "many"]]:
        result = subprocess.run([PROGRAM, MODEL, *wrong], capture_output=True, text=True, timeout=60)
        assert result.returncode == 64, result


def remembered():
    """A request beyond --max-context is an error of its own; the others go on."""
    with Server("--template", "none", "--max-context", "100") as server:
        assert server.ask("GET", "/v1/models")[1]["data"][0]["meta"]["max_context"] == 100
        long, short = {"prompt": "a" * 101}, {"prompt": "a" * 90, "max_tokens": 50, "logit_bias": {"0": -100}}
        for path, body in [("/v1/completions", long), ("/v1/completions", short), ("/v1/states", long),
                           ("/v1/embeddings", {"input": "a" * 101})]:
            status, answer, _ = server.ask("POST", path, body)
            assert status == 400 and answer["error"]["code"] == "context_length_exceeded", (path, answer)
            assert "100 tokens" in answer["error"]["message"] and "--max-context" in answer["error"]["message"]
        assert len(server.complete(prompt="a" * 90, max_tokens=10, logit_bias={"0": -100})["choices"]) == 1
        for body in [long, short]:
            last = ended(server, body)
            assert last["error"]["code"] == "context_length_exceeded", last
        # A state that is nearly full has room for what there is room for, and stays as it is.
        state = server.ask("POST", "/v1/states", {"prompt": "a" * 95})[1]["id"]
        assert server.ask("POST", "/v1/completions", {"prompt": "b" * 6, "state": state, "max_tokens": 0})[0] == 400
        server.complete(prompt="b" * 5, state=state, max_tokens=0)
    # What there is memory for is shared by all that are served together.
    most = []
    for parallel in ["1", "16"]:
        with Server("--template", "none", "--parallel", parallel, "--memory-limit", "400M") as server:
            most.append(server.ask("GET", "/v1/models")[1]["data"][0]["meta"]["max_context"])
    assert 1024 <= most[1] and 8 * most[1] < most[0], most


def ended(server, body):
    """The last event of a stream that ends with an error."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    data = json.dumps({**body, "stream": True})
    connection.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n{data}".encode())
    answer = b""
    while piece := connection.recv(1 << 16):
        answer += piece
    return json.loads([part for part in answer.split(b"\n\n") if b"data: {" in part][-1].split(b"data: ")[1])


def unmounted():
    """Where /proc is not mounted, as in some containers, the server starts and answers, many at once, too."""
    before = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    if os.geteuid() or subprocess.run([*before, "true"], capture_output=True).returncode:
        return print("skipped: /proc cannot be unmounted here")
    with Server("--template", "none", before=before) as server:
        found = []
        threads = [threading.Thread(target=lambda: found.append(server.complete(prompt="a", max_tokens=9)["choices"]))
                   for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 30 and all(choices == found[0] for choices in found)
        assert events(server, {"prompt": "a", "max_tokens": 4})


def two_models():
    """A state of another model is refused, and in a folder for both each finds its own."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--template", "none", "--state-dir", folder]
        with Server(*options) as one, Server(*options, model=OTHER) as two:
            states = [server.ask("POST", "/v1/states", {"prompt": "The database"})[1]["id"] for server in (one, two)]
            files = [server.ask("GET", f"/v1/states/{state}/file")[1] for server, state in zip((one, two), states)]
            for server, own, other, file in [(one, *states, files[1]), (two, *reversed(states), files[0])]:
                assert [entry["id"] for entry in server.ask("GET", "/v1/states")[1]["data"]] == [own]
                assert server.ask("GET", f"/v1/states/{other}")[0] == 404
                status, answer, _ = server.ask("POST", "/v1/completions", {"prompt": "a", "state": other})
                assert status == 404 and answer["error"]["code"] == "state_not_found", answer
                status, answer, _ = server.ask("PUT", "/v1/states/mine/file", file)
                assert status == 400 and "belongs to" in answer["error"]["message"], answer


run([failed, remembered, unmounted, two_models])
