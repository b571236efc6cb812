#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Vectors of an embedding model and scores of its reranker, over HTTP: those of rwkv-run.

    server/Tests/texts.py rwkv-serve EMBEDDER.rwkv RERANKER.rwkv rwkv-run
"""

import json
import math
import subprocess
import sys

from server import PROGRAM, Server, send, wait

EMBEDDER, RERANKER, RUN = sys.argv[2:]
DOCUMENTS = ["Bees dance.", "Concrete hardens.", "Rivers carry water."]
QUERY = "How do bees share food?"


def ask(server, path, body):
    return server.ask("POST", path, body)[:2]


def run(*arguments, text=""):
    output = subprocess.run([RUN, *arguments], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def vectors(server):
    for task in ("retrieval", "sts", "classification"):
        expected = run("embed", EMBEDDER, "--lines", "--task", task, text="\n".join(DOCUMENTS))
        status, answer = ask(server, "/v1/embeddings", {"input": DOCUMENTS, "task": task})
        assert status == 200, answer
        for one, two in zip(expected, answer["data"]):
            assert all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(one["embedding"], two["embedding"]))
    assert ask(server, "/v1/embeddings", {"input": "a"})[0] == 200
    assert ask(server, "/v1/embeddings", {"input": "a", "task": "x"})[0] == 400
    # It predicts no tokens.
    status, answer = ask(server, "/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert status == 400 and "embedding model" in answer["error"]["message"], answer


def scores(server):
    expected = run("rerank", EMBEDDER, RERANKER, "-q", QUERY, text="\n".join(DOCUMENTS))
    for documents in (DOCUMENTS, [{"text": text} for text in DOCUMENTS]):
        status, answer = ask(server, "/v1/rerank", {"model": "m", "query": QUERY, "documents": documents})
        assert status == 200, answer
        assert [item["index"] for item in answer["results"]] == [item["index"] for item in expected]
        for one, two in zip(expected, answer["results"]):
            assert math.isclose(one["probability"], two["relevance_score"], rel_tol=1e-9)
            assert "document" not in two
    fields = {"query": QUERY, "documents": DOCUMENTS, "top_n": 1, "return_documents": True}
    best = ask(server, "/rerank", fields)[1]["results"]
    assert len(best) == 1 and best[0]["document"]["text"] == DOCUMENTS[best[0]["index"]]
    for fields, parameter in [
        ({"documents": ["a"]}, "query"), ({"query": "a"}, "documents"), ({"query": "a", "documents": [1]}, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"), ({"query": "a", "documents": [{}]}, "documents[0].text"),
    ]:
        status, answer = ask(server, "/v1/rerank", fields)
        assert status == 400 and answer["error"]["param"] == parameter, answer


def bounds(server):
    """An empty list is said to be empty, and what is too long says how long."""
    for path, name, more in [("/v1/rerank", "documents", {"query": "a"}), ("/v1/embeddings", "input", {})]:
        for body, words in [(more, ["missing"]), ({**more, name: []}, ["empty"]),
                            ({**more, name: ["a"] * 2049}, ["2049", "2048"])]:
            status, answer = ask(server, path, body)
            assert status == 400 and answer["error"]["param"] == name, answer
            assert all(word in answer["error"]["message"] for word in words), answer
    status, answer = ask(server, "/v1/embeddings", {"input": [""] * 2048})
    # Also by the command, an empty text is one.
    (expected,) = run("embed", EMBEDDER, "-p", "")
    assert status == 200 and len(answer["data"]) == 2048
    assert all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(expected["embedding"], answer["data"][7]["embedding"]))
    assert ask(server, "/v1/rerank", {"query": "", "documents": [""]})[0] == 200


LONG = "word " * 20_000
# Each is at work for many seconds: in documents, in the query after them, in texts.
WORK = [
    ("/v1/rerank", {"query": "a", "documents": [LONG] * 20}),
    ("/v1/rerank", {"query": LONG, "documents": ["a"] * 64}),
    ("/v1/embeddings", {"input": [LONG] * 20}),
]


def leaving():
    """A client that leaves, in any phase, is gone by the next pass, and the next one has its turn."""
    with Server("--template", "none", "--reranker", RERANKER, "--queue", "2") as server:
        for path, body in WORK:
            active = send(server, path, **body)
            wait(lambda: server.metric("requests_active") == 1)
            waiting = [send(server, *WORK[0][:1], **WORK[0][1]), send(server, *WORK[2][:1], **WORK[2][1])]
            wait(lambda: server.metric("requests_waiting") == 2)
            status, answer, headers = server.ask("POST", path, body)
            assert status == 429 and headers["Retry-After"], answer
            for left, connection in enumerate(waiting):
                connection.close()
                wait(lambda: server.metric("requests_waiting") == 1 - left, seconds=2)
            assert server.metric("requests_active") == 1
            active.close()
            wait(lambda: server.metric("requests_active") == 0, seconds=2)
            assert ask(server, "/v1/rerank", {"query": "a", "documents": ["a"]})[0] == 200


def refused():
    """An embedding model guesses nothing, and the two models have their places."""
    for arguments, words in [([EMBEDDER, "--draft", "ngram"], "--draft"),
                             ([RERANKER, "--reranker", EMBEDDER], f"{RERANKER}: is a reranker"),
                             ([EMBEDDER, "--reranker", EMBEDDER], f"{EMBEDDER}: is an embedding model")]:
        command = [PROGRAM, *arguments, "--port", "0"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1 and words in result.stderr, result


with Server("--template", "none", "--reranker", RERANKER) as server:
    vectors(server)
    scores(server)
    bounds(server)
leaving()
refused()
with Server("--template", "none") as server:
    assert ask(server, "/v1/rerank", {"query": "a", "documents": ["a"]})[0] == 404
print("passed: vectors, scores, bounds, leaving, refused")
