#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares servers of OpenAI's completions: tokens per second, a conversation's tenth turn, memory.

    server/Tests/beside.py NAME='COMMAND … --port 18080' NAME='COMMAND … --port 18081' [--rounds 3] [--seconds 20]

Each command is started alone, one after the other, as often as there are rounds. 16 and 4 clients and one write 256
tokens again and again, after prompts of ten; a text then grows by ten turns of 50 words and 64 tokens, and what counts
is how long the tenth turn waits for its first token. Medians of the rounds. Not part of the tests: figures.
"""

import argparse
import http.client
import json
import random
import re
import shlex
import statistics
import subprocess
import time

from load import Client, Server, text


class Program:
    """A server that somebody else may have written."""

    def __init__(self, command):
        words = shlex.split(command)
        self.port = int(words[words.index("--port") + 1])
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self.is_ready():
            assert self.process.poll() is None, f"it ended: {command}"
            time.sleep(0.1)

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def memory(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read())[1]) / 1e3

    request = Server.request

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def rate(server, clients, seconds):
    """Tokens per second that the clients have counted."""
    begin = time.perf_counter()
    threads = [Client(server, seed, begin + seconds, (10, 10), 0) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = sum((thread.failures for thread in threads), [])
    assert not failures, failures[:3]
    return sum(thread.counts["written"] for thread in threads) / (time.perf_counter() - begin)


def turn(server, prompt):
    """The seconds until the first token of an answer, and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    fields = {"prompt": prompt, "max_tokens": 64, "stream": True, "temperature": 0, "logit_bias": {"0": -100}}
    begin = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(fields), {"Content-Type": "application/json"})
    answer, first, written = connection.getresponse(), None, ""
    assert answer.status == 200, answer.read()
    for line in answer:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begin
            written += "".join(choice.get("text") or "" for choice in json.loads(line[6:])["choices"])
    return first, written


def measure(command, seconds):
    server = Program(command)
    try:
        figures = {"RSS at the start, MB": server.memory()}
        for clients in (1, 4, 16):
            figures[f"{clients} clients, tokens/s"] = rate(server, clients, seconds)
        chance, prompt = random.Random(1), ""
        for _ in range(10):
            prompt += " " + text(chance, 200)
            first, written = turn(server, prompt)
            prompt += written
        figures["first token of turn 10, ms"] = first * 1e3
        figures["RSS at the end, MB"] = server.memory()
        return figures
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    servers = dict(server.split("=", 1) for server in options.servers)
    found = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, command in servers.items():
            found[name].append(measure(command, options.seconds))
    print("| | " + " | ".join(servers) + " |\n|---" + "|---" * len(servers) + "|")
    for row in found[next(iter(servers))][0]:
        medians = [statistics.median(figures[row] for figures in found[name]) for name in servers]
        print(f"| {row} | " + " | ".join(f"{median:.1f}" for median in medians) + " |")


if __name__ == "__main__":
    main()
