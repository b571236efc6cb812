# SPDX-License-Identifier: MIT
"""A stand-in for rwkv-serve, for tests of the page: what it answers depends on words in the last message.

`think` thinks first, `long` has a long prompt, `busy` is refused twice, `marks` answers with Markdown, `endless` never
ends, `break` loses the connection, `wrong` is an error. Everything else is answered with words of a fixed list that
depend on the seed. Requests are kept in `requests`, and those whose client left in `left`.
"""

import json
import pathlib
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = pathlib.Path(__file__).parent.parent / "Sources/RWKVServe/page.html"
MARKS = """# Title
Some **bold**, *slanted* and `code` <img src=x onerror="document.title='broken in'">
[a link](https://example.org/a) and [not one](javascript:alert(1))

- one
  - inner
- two

| a | b |
|---|---|
| 1 | 2 |

```html
<script>document.title = 'broken in'</script>
```
> said
"""


class Mock(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0, template="g1", key=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.template, self.key = template, key
        self.requests, self.left, self.states, self.busy = [], [], {}, 2
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json", headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(body))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, message, headers=()):
        self.reply(
            status,
            {"error": {"message": message, "type": "invalid_request_error", "code": None}},
            headers=headers,
        )

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.removeprefix("/v1")
        if server.key and path not in ("/", "/health") and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self.error(401, "This server asks for a key.")
        if path == "/":
            return self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        if path == "/health":
            return self.reply(200, {"status": "ok"})
        if path == "/models":
            meta = {
                "template": server.template,
                "thinking": ["off", "on"],
                "sampling": {"temperature": 1.0, "top_p": 0.3},
                "state_bytes": 2400000,
            }
            return self.reply(200, {"object": "list", "data": [{"id": "mock", "object": "model", "meta": meta}]})
        if path in ("/chat/completions", "/completions"):
            return self.complete(json.loads(body))
        if path.startswith("/states"):
            return self.state(path, body)
        self.error(404, f"no route {path}")

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def state(self, path, body):
        states, parts = self.server.states, path.split("/")[2:]

        def described(name):
            return {"id": name, "name": states[name][0], "bytes": len(states[name][1]), "tokens": 7}

        if not parts and self.command == "POST":
            request = json.loads(body)
            self.server.requests.append(request)
            name = f"state-{len(states)}"
            states[name] = (request.get("name"), json.dumps(request).encode())
            return self.reply(200, described(name))
        if not parts:
            return self.reply(200, {"object": "list", "data": [described(name) for name in states]})
        if self.command == "PUT":
            states[parts[0]] = (None, body)
            return self.reply(200, described(parts[0]))
        if parts[0] not in states:
            return self.error(404, f"no state {parts[0]}")
        if self.command == "DELETE":
            del states[parts[0]]
            return self.reply(200, {"deleted": True})
        self.reply(200, states[parts[0]][1], "application/octet-stream")

    def complete(self, request):
        server, chat = self.server, "messages" in request
        server.requests.append(request)
        if "state" in request and request["state"] not in server.states:
            return self.error(404, f"no state {request['state']}")
        users = [m["content"] for m in request["messages"] if m["role"] == "user"] if chat else [request["prompt"]]
        last = users[-1] if users else ""
        if "busy" in last and server.busy:
            server.busy -= 1
            return self.error(429, "Many are waiting.", [("Retry-After", "1")])
        if "wrong" in last:
            return self.error(400, "This is wrong: use the other one.")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(request, chat, last)
        except (BrokenPipeError, ConnectionResetError):
            server.left.append(last)

    def send(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()

    def stream(self, request, chat, last):
        choices = random.Random(request["seed"])
        words = ["the ", "state ", "reads ", "eine ", "größere ", "Welt ", "🙂 ", "and ", "on "]
        written = [choices.choice(words) for _ in range(12)]
        if "marks" in last:
            written = MARKS.splitlines(keepends=True)
        if "long" in last:
            for read in range(0, 2001, 250):
                self.send(f": prompt {read}/2000\n\n")
                time.sleep(0.08)

        def chunk(**fields):
            self.send(f"data: {json.dumps({'id': 'x', 'object': 'chunk', 'model': 'mock', **fields})}\n\n")

        def piece(delta, **more):
            body = {"delta": delta} if chat else {"text": delta.get("content", "")}
            chunk(choices=[{"index": 0, "finish_reason": None, **more, **body}])

        piece({"role": "assistant", "content": ""})
        if "think" in last:
            for word in ["Let ", "me ", "see."]:
                piece({"reasoning_content": word})
                time.sleep(0.4)
        count = 0
        while count < len(written) or "endless" in last:
            word = written[count % len(written)]
            count += 1
            piece({"content": word}, logprobs=self.logprobs(request, chat, word))
            time.sleep(0.03)
            if "break" in last and count == 3:
                return
        piece({}, finish_reason="stop")
        chunk(
            choices=[],
            usage={
                "prompt_tokens": 100,
                "completion_tokens": count,
                "total_tokens": 100 + count,
                "prompt_tokens_details": {"cached_tokens": 90},
            },
            timings={"predicted_per_second": 33.3},
        )
        self.send("data: [DONE]\n\n")

    @staticmethod
    def logprobs(request, chat, word):
        if not request.get("logprobs"):
            return None
        others = {word: -0.5, "other ": -1.5, "maybe ": -2.5}
        if not chat:
            return {"tokens": [word], "token_logprobs": [-0.5], "top_logprobs": [others], "text_offset": [0]}

        def entry(token, logprob):
            return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

        return {"content": [{**entry(word, -0.5), "top_logprobs": [entry(*pair) for pair in others.items()]}]}


if __name__ == "__main__":
    print(Mock(8081).url)
    threading.Event().wait()
