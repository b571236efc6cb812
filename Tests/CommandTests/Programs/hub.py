"""A hub of models for tests: lists of files, redirections to another host's name, ranges, and faults, with commas between.

hub.py FOLDER FAULT PORT_FILE LOG [CERTIFICATE KEY]: serves FOLDER as the repository owner/r, its .txt files as what a
list calls small. Every request is a line of the log: host, Authorization, path, Range, "proxied" where it came by a proxy.
"""

import email.utils
import functools
import gzip
import hashlib
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder, fault, port_file, log = sys.argv[1:5]
# What other servers do, all of which is allowed.
manners = set(fault.split(","))
certificate = sys.argv[5:7]
scheme = "https" if certificate else "http"
commit = "0123456789abcdef0123456789abcdef01234567"
lock = threading.Lock()
count = 0
free = 0.0
asked_to_wait = {}
uses = {}
broken_until = None
# How servers say that they want to be left alone for a second.
limits = {
    "limited": lambda: {"Retry-After": "1"},
    "limited-until": lambda: {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)},
    "limited-by-policy": lambda: {"RateLimit": '"pages";r=9;t=200, "resolvers";r=0;t=1'},
}


def pace(count, rate):
    """Waits until so many bytes may be sent, of all connections together."""
    global free
    with lock:
        free = max(free, time.monotonic()) + count / rate
        until = free
    time.sleep(max(0, until - time.monotonic()))


@functools.cache
def hash_of(name):
    if fault == "wrong-hash":
        return "0" * 64
    with open(os.path.join(folder, name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def files():
    for parent, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(parent, name), folder)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" if "http-1.0" in manners else "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", headers=None):
        headers = dict(headers or {})
        if "gzip" in manners and status == 200 and "gzip" in self.headers.get("Accept-Encoding", "gzip"):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "no-length" not in manners:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_broken(self, number):
        """From the fourth request on, for four seconds."""
        global broken_until
        with lock:
            if number == 4:
                broken_until = time.monotonic() + 4
            return broken_until is not None and time.monotonic() < broken_until

    def do_GET(self):
        global count
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        proxied = "proxied" if self.path.startswith("http") else "direct"
        with lock:
            count += 1
            number = count
            with open(log, "a") as file:
                host, token = self.headers["Host"], self.headers.get("Authorization", "-")
                file.write(f"{host} {token} {path} {self.headers.get('Range', '-')} {proxied}\n")
        if fault == "break" and self.is_broken(number):
            self.close_connection = True
            return self.connection.close()
        if fault == "busy" and number % 3 == 1:
            return self.reply(429 if number % 2 == 1 else 503, b"later", {"Retry-After": "0"})
        for manner, headers in limits.items():
            if manner in manners and self.is_limited(number):
                return self.reply(429, b"later", headers())
        if fault == "for-hours" and path.startswith("/cdn/"):
            return self.reply(429, b"later", {"Retry-After": "7200"})
        if path in ("/api/models/owner/r", "/api/models/owner/r/revision/main", "/api/models/owner/r/revision/refs/pr/1"):
            return self.list(number)
        prefix = f"/owner/r/resolve/{commit}/"
        if "same-path" in manners and self.path.endswith("?signature=secret-of-the-hub"):
            return self.send(os.path.join(folder, path[len(prefix):]), number)
        if path.startswith(prefix):
            return self.redirect(path[len(prefix):], number)
        name = os.path.join(folder, path[len("/cdn/"):])
        if not path.startswith("/cdn/") or not os.path.isfile(name):
            return self.reply(404, b"none")
        if fault == "expired" and self.headers.get("Range") and self.is_used_up():
            return self.reply(403, b"the signature of this address has ended")
        self.send(name, number)

    def is_limited(self, number):
        """Every fifth request is asked to wait a second; who comes back before is noted."""
        key = (self.path, self.headers.get("Range"))
        with lock:
            until = asked_to_wait.pop(key, None)
            if until is None and number % 5 == 1:
                asked_to_wait[key] = time.monotonic() + 1
                return True
            if until is not None and time.monotonic() < until:
                with open(log, "a") as file:
                    file.write("too early\n")
        return False

    def is_used_up(self):
        """An address may be used three times."""
        with lock:
            uses[self.path] = uses.get(self.path, 0) + 1
            return uses[self.path] > 3

    def list(self, number):
        if fault == "private" and self.headers.get("Authorization") != "Bearer secret-of-mine":
            return self.reply(401, b"no", {"X-Error-Code": "RepoNotFound"})
        if fault == "no-list":
            return self.reply(200, b'{"sha": "' + commit.encode() + b'", "siblings": [{"rfilename"')
        siblings = []
        for name in sorted(files()):
            size = os.path.getsize(os.path.join(folder, name)) + (1 if fault == "size" else 0)
            entry = {"rfilename": name, "size": size}
            if not name.endswith((".json", ".txt")):
                entry["lfs"] = {"sha256": hash_of(name), "size": size, "pointerSize": 134}
            siblings.append(entry)
        siblings.append({"rfilename": "../../escape.safetensors", "size": 5})
        body = json.dumps({"sha": commit, "siblings": siblings}).encode()
        if "gzip" in manners or "http-1.0" in manners:
            return self.reply(200, body)
        # Chunked, as the hub does it.
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 100):
            piece = body[start:start + 100]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"zzz\r\n\r\n" if fault == "bad-chunk" and number == 1 else b"0\r\n\r\n")

    def redirect(self, name, number):
        port = self.server.server_address[1]
        other = "localhost" if self.headers["Host"].startswith("127.") else "cdn.test"
        target = f"{scheme}://{other}:{port}/cdn/{urllib.parse.quote(name)}?signature=secret-of-the-hub-{number}"
        if "relative" in manners:
            target = f"../../../../cdn/{urllib.parse.quote(name)}?a=secret-of-the-hub"
        if "same-path" in manners:
            target = "?signature=secret-of-the-hub"
        if fault == "loop":
            target = self.path
        if fault == "downgrade":
            target = target.replace("https:", "http:")
        if fault == "no-place":
            target = "http://user:password@localhost\\@elsewhere/"
        headers = {"Location": target, "X-Repo-Commit": commit}
        if not name.endswith((".json", ".txt")) and os.path.isfile(os.path.join(folder, name)):
            size = os.path.getsize(os.path.join(folder, name))
            headers["X-Linked-Size"] = str(size + (1 if fault == "linked-size" else 0))
            headers["X-Linked-Etag"] = f'"{"1" * 64 if fault == "linked-hash" else hash_of(name)}"'
        # A body, as the hub sends one, and longer than what was asked for.
        self.reply(302, b"Found. Redirecting to " + target.encode(), headers)

    def send(self, name, number):
        new = fault in ("changed", "changed-date") and number >= 4
        tags = {"ETag": '"two"' if new else '"one"', "Last-Modified": email.utils.formatdate(1e9 + new, usegmt=True)}
        if "weak" in manners and number % 2:
            tags["ETag"] = "W/" + tags["ETag"]
        if "few-tags" in manners and number % 3 or fault == "changed-date":
            del tags["ETag"]
        size = os.path.getsize(name)
        wanted = self.headers.get("Range")
        first, last = (int(part) for part in wanted[len("bytes="):].split("-")) if wanted else (0, size)
        last = min(last, size - 1)
        if fault == "half" and first >= 5 << 20:
            return self.reply(429, b"later", {"Retry-After": "7200"})
        whole = "whole-if-all" in manners and (first, last) == (0, size - 1)
        if wanted is None or fault == "whole" or whole:
            with open(name, "rb") as file:
                return self.reply(200, file.read(), tags)
        if "small-parts" in manners:
            last = min(last, first + 400000)
        with open(name, "rb") as file:
            file.seek(first)
            part = file.read(last + 1 - first)
        shown = first + 1 if fault == "other-part" and len(part) > 1 else first
        total = size + (1 if fault == "wrong-total" and number > 3 else 0)
        self.send_response(206)
        for key, value in tags.items():
            self.send_header(key, value)
        if "any-size" in manners:
            total = "*"
        equals = "=" if "equals" in manners else " "
        self.send_header("Content-Range", f"bytes{equals}{shown}-{last}/{total}")
        if fault == "compressed":
            self.send_header("Content-Encoding", "gzip")
        if fault == "huge-header":
            for index in range(150):
                self.send_header(f"X-{index}", "x" * 500)
        if fault == "longer":
            part += b"more"
        if "no-length" not in manners:
            self.send_header("Content-Length", str(len(part) + (9 if fault == "short" else 0)))
        self.end_headers()
        if fault in ("cut", "stopped") and len(part) > 1000 and first % 2 == 0:
            self.wfile.write(part[: len(part) // 3])
            self.wfile.flush()
            if fault == "stopped":
                time.sleep(3)
            self.close_connection = True
            self.connection.close()
            return
        if fault == "50-MB/s":
            pace(len(part), 50e6)
        if fault == "slow":
            for start in range(0, len(part), 1 + len(part) // 20):
                self.wfile.write(part[start:start + 1 + len(part) // 20])
                self.wfile.flush()
                time.sleep(0.01)
            return
        self.wfile.write(part)
        if fault == "short":
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(port_file + ".new", port_file)
server.serve_forever()
