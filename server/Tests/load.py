#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts a server under load, and says what it did.

    server/Tests/load.py rwkv-serve MODEL.rwkv [--seconds 600] [--clients 64] [--run rwkv-run]

Clients write and read over loopback: prompts of 10 to 2,000 tokens, some of which are left at random. Beside that, tokens
per second of 16 clients with short prompts against `rwkv-run bench --streams 16`, and of one client: always the likeliest
token against the row without sampling, at temperature 1 against the row with it. Not part of the tests: figures.
"""

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import threading
import time

WORDS = "a database is stored on disk and read by the query planner when an index does not help ".split()


class Server:
    def __init__(self, program, model, *options):
        begin = time.perf_counter()
        self.process = subprocess.Popen([program, model, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
        self.port = int(self.process.stderr.readline().rsplit(":", 1)[1])
        self.start = time.perf_counter() - begin

    def memory(self):
        """Resident bytes that are not the model's file: anonymous memory."""
        text = open(f"/proc/{self.process.pid}/status").read()
        return {name: int(re.search(rf"{name}:\s+(\d+)", text)[1]) << 10 for name in ["VmRSS", "RssAnon"]}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def request(self, path, fields):
        body = json.dumps(fields).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


def text(generator, tokens):
    return " ".join(generator.choice(WORDS) for _ in range(max(1, tokens // 4)))


class Client(threading.Thread):
    """Asks one thing after the other until the end."""

    def __init__(self, server, seed, until, tokens, leaves, temperature=1):
        super().__init__()
        self.server, self.until, self.tokens, self.leaves = server, until, tokens, leaves
        self.temperature = temperature
        self.random = random.Random(seed)
        self.gaps, self.first, self.failures, self.counts = [], [], [], {"asked": 0, "refused": 0, "left": 0, "written": 0}

    def run(self):
        while time.perf_counter() < self.until:
            try:
                self.ask()
            except Exception as error:  # noqa: BLE001 a failure is a figure
                self.failures.append(repr(error))

    def ask(self):
        self.counts["asked"] += 1
        leaving = self.random.random() < self.leaves
        wanted = self.random.randint(16, 96) if self.leaves else 256
        fields = {
            "prompt": text(self.random, self.random.randint(*self.tokens)), "max_tokens": wanted, "stream": True,
            "seed": self.random.randrange(1 << 30), "temperature": self.temperature, "logit_bias": {"0": -100},
            "no_cache": not self.leaves,
        }
        begin = last = time.perf_counter()
        with self.server.request("/v1/completions", fields) as connection:
            data, written, patience = b"", 0, self.random.random() * 2 if leaving else 1e9
            while True:
                connection.settimeout(min(120, max(0.01, begin + patience - time.perf_counter())))
                try:
                    piece = connection.recv(1 << 16)
                except TimeoutError:
                    piece = None
                if leaving and (piece is None or time.perf_counter() > begin + patience):
                    self.counts["left"] += 1
                    return
                if not piece:
                    raise ConnectionError(f"cut after {written} pieces: {data[-80:]}")
                now = time.perf_counter()
                data += piece
                if data.startswith(b"HTTP/1.1 429"):
                    self.counts["refused"] += 1
                    time.sleep(0.2)
                    return
                if not data.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(data[:80])
                if new := piece.count(b'"text":'):
                    if written:
                        self.gaps += [(now - last) / new] * new
                    else:
                        self.first.append(now - begin)
                    written, last = written + new, now
                    self.counts["written"] += new
                if b"data: [DONE]" in data[-200:]:
                    return
                data = data[-400:] if not data.startswith(b"HTTP") else data[:12] + data[-400:]


def drive(server, clients, seconds, tokens, leaves, temperature=1):
    """Tokens per second are those while all clients are there, after the first of the first prompts."""
    until = time.perf_counter() + seconds
    threads = [Client(server, seed, until, tokens, leaves, temperature) for seed in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(min(2, seconds / 10))
    begin, before = time.perf_counter(), metric(server, "written_tokens_total")
    memory = []
    while time.perf_counter() < until:
        time.sleep(min(1, max(0, until - time.perf_counter())))
        memory.append(server.memory()["RssAnon"])
    rate = (metric(server, "written_tokens_total") - before) / (time.perf_counter() - begin)
    for thread in threads:
        thread.join()
    return threads, rate, memory


def metric(server, name):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
    return float(re.search(rf"\nrwkv_{name} (\S+)", data.decode())[1])


def bench(program, model, streams):
    """What rwkv-run measures, and what it measures with sampling."""
    command = [program, "bench", model, "-p", "0", "-n", "128", "-r", "5", "-o", "json", "--streams", str(streams)]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(rate) for rate in re.findall(r"\"tokens_per_second\": ?([0-9.]+)", rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--run", help="rwkv-run, to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison")
    parser.add_argument("--options", default="", type=str.split, help="for the server")
    options = parser.parse_args()

    server = Server(options.server, options.model, *options.options)
    time.sleep(1)
    idle, descriptors = server.memory(), server.descriptors()
    print(f"start {server.start:.3f} s, idle RSS {idle['VmRSS'] / 1e6:.1f} MB of which anonymous {idle['RssAnon'] / 1e6:.1f}")
    threads, rate, memory = drive(server, options.clients, options.seconds, (10, 2000), 0.1)
    gaps = sorted(sum((thread.gaps for thread in threads), []))
    counts = {name: sum(thread.counts[name] for thread in threads) for name in threads[0].counts}
    failures = sum((thread.failures for thread in threads), [])
    print(f"{options.clients} clients: {counts}, failed {len(failures)} {failures[:3]}, {rate:.1f} tokens/s")
    print(f"  between tokens: median {statistics.median(gaps) * 1e3:.1f} ms, p99 {gaps[len(gaps) * 99 // 100] * 1e3:.1f} ms")
    first = sorted(sum((thread.first for thread in threads), []))
    print(f"  first token: median {statistics.median(first):.2f} s")
    half = len(memory) // 2
    print(f"  anonymous memory: first half at most {max(memory[:half]) / 1e6:.1f} MB, second {max(memory[half:]) / 1e6:.1f} MB")
    time.sleep(2)
    print(f"  descriptors: {descriptors} before, {server.descriptors()} after")
    assert server.stop() == 0
    # In turn, so that both have the same machine.
    for clients in [16, 1]:
        for _ in range(options.rounds):
            rates = []
            for temperature in [0, 1]:
                server = Server(options.server, options.model, *options.options)
                rates.append(drive(server, clients, 20, (10, 10), 0, temperature)[1])
                assert server.stop() == 0
            others = bench(options.run, options.model, clients) if options.run else rates
            said = ", ".join(f"{rate:.1f} of {other:.1f} tokens/s ({rate / other:.3f})" for rate, other in zip(rates, others))
            print(f"{clients} clients with prompts of ten tokens, likeliest and sampled, of bench: {said}", flush=True)


if __name__ == "__main__":
    main()
