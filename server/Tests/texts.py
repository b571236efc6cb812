#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Vectors of an embedding model and scores of its reranker, over HTTP: those of rwkv-run.

    server/Tests/texts.py rwkv-serve rwkv-run EMBEDDER.rwkv RERANKER.rwkv
"""

import http.client
import json
import math
import re
import signal
import subprocess
import sys

SERVE, RUN, EMBEDDER, RERANKER = sys.argv[1:]
DOCUMENTS = ["Bees dance.", "Concrete hardens.", "Rivers carry water."]
QUERY = "How do bees share food?"


class Server:
    def __init__(self, *options):
        command = [SERVE, EMBEDDER, "--port", "0", "--template", "none", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        self.port = int(re.search(r":(\d+)$", line.strip())[1])

    def ask(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def run(*arguments, text=""):
    output = subprocess.run([RUN, *arguments], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def vectors(server):
    for task in ("retrieval", "sts", "classification"):
        expected = run("embed", EMBEDDER, "--lines", "--task", task, text="\n".join(DOCUMENTS))
        status, answer = server.ask("/v1/embeddings", {"input": DOCUMENTS, "task": task})
        assert status == 200, answer
        for one, two in zip(expected, answer["data"]):
            assert all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(one["embedding"], two["embedding"]))
    assert server.ask("/v1/embeddings", {"input": "a"})[0] == 200
    assert server.ask("/v1/embeddings", {"input": "a", "task": "x"})[0] == 400
    # It predicts no tokens.
    status, answer = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert status == 400 and "embedding model" in answer["error"]["message"], answer


def scores(server):
    expected = run("rerank", EMBEDDER, RERANKER, "-q", QUERY, text="\n".join(DOCUMENTS))
    for documents in (DOCUMENTS, [{"text": text} for text in DOCUMENTS]):
        status, answer = server.ask("/v1/rerank", {"model": "m", "query": QUERY, "documents": documents})
        assert status == 200, answer
        assert [item["index"] for item in answer["results"]] == [item["index"] for item in expected]
        for one, two in zip(expected, answer["results"]):
            assert math.isclose(one["probability"], two["relevance_score"], rel_tol=1e-9)
            assert "document" not in two
    fields = {"query": QUERY, "documents": DOCUMENTS, "top_n": 1, "return_documents": True}
    best = server.ask("/rerank", fields)[1]["results"]
    assert len(best) == 1 and best[0]["document"]["text"] == DOCUMENTS[best[0]["index"]]
    for fields, parameter in [
        ({"documents": ["a"]}, "query"), ({"query": "a"}, "documents"), ({"query": "a", "documents": [1]}, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"), ({"query": "a", "documents": [{}]}, "documents[0].text"),
    ]:
        status, answer = server.ask("/v1/rerank", fields)
        assert status == 400 and answer["error"]["param"] == parameter, answer


with Server("--reranker", RERANKER) as server:
    vectors(server)
    scores(server)
with Server() as server:
    assert server.ask("/v1/rerank", {"query": "a", "documents": ["a"]})[0] == 404
print("passed: vectors, scores")
