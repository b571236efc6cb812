# SPDX-License-Identifier: MIT
"""The same request, the same bytes, whatever goes on beside it. routes.py runs it."""

import tempfile
import threading

from server import MODEL, Server, events, wait

SAMPLERS = [
    {"temperature": 0},
    {"temperature": 1},
    {"temperature": 0.8, "top_p": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 1.5, "top_k": 40, "min_p": 0.02, "penalty_decay": 0.99},
    {"temperature": 1, "response_format": {"type": "json_object"}},
    {"temperature": 1, "top_p": 0.9, "stop": ["the", ". "]},
]
# Mixed lengths and samplers; texts that repeat themselves, so that there is something to guess.
REQUESTS = [
    {"prompt": "The database reads the index of the table. " * (1 + 5 * i % 24), "max_tokens": 5 + 2 * i, "seed": i,
     **SAMPLERS[i % len(SAMPLERS)]}
    for i in range(16)
]


def alone(server, **more):
    return [server.complete(**request, **more)["choices"][0] for request in REQUESTS]


def together(server):
    """All at once, every other one streamed."""
    found = [None] * len(REQUESTS)

    def one(index):
        if index % 2:
            found[index] = server.complete(**REQUESTS[index])["choices"][0]
        else:
            chunks = [chunk["choices"][0] for chunk in events(server, REQUESTS[index]) if chunk["choices"]]
            found[index] = {"index": 0, "text": "".join(chunk.get("text", "") for chunk in chunks), "logprobs": None,
                            "finish_reason": chunks[-1]["finish_reason"]}

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(REQUESTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def determinism(server):
    """Alone, streamed, among others, with and without the cache; each choice by its own seed."""
    expected = alone(server)
    assert alone(server) == expected and server.metric("state_cache_hits_total") > 0
    assert alone(server, no_cache=True) == expected
    assert together(server) == expected
    choices = server.complete(prompt="The database", n=3, temperature=1, seed=7, max_tokens=9)["choices"]
    for offset, choice in enumerate(choices):
        other = server.complete(prompt="The database", temperature=1, seed=7 + offset, max_tokens=9)["choices"][0]
        assert choice["text"] == other["text"]


def drafted():
    """With drafts, with other numbers of threads and places, and after a kill, from states on the disk."""
    with Server("--template", "none", "-t", "1") as server:
        expected = alone(server, no_cache=True)
    for draft, more in [("ngram", ["--parallel", "5"]), (MODEL, ["-t", "2"])]:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--template", "none", "--draft", draft, "--state-dir", folder, *more]
            server = Server(*options)
            # Whether drafts go on depends on what passes take here; the first ones are always tried.
            server.complete(prompt="1, 2, 3, " * 30, temperature=0, max_tokens=60)
            assert server.metric("drafted_tokens_total") > 0, draft
            assert together(server) == expected, draft
            assert server.metric("accepted_tokens_total") <= server.metric("drafted_tokens_total"), draft
            wait(lambda: server.metric("state_folder_bytes") > 0)
            server.kill()
            with Server(*options) as server:
                assert together(server) == expected, draft
                assert server.metric("state_cache_hits_total") > 0
