#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries the routes of the server over bare sockets, and with openai-python.

    pip install openai==3.57.0
    server/Tests/routes.py rwkv-serve MODEL.rwkv [TEST]...

MODEL is the one in examples/model in any type. Without the package `openai`, its tests are left out; one line says so.
"""

import base64
import json
import os
import pathlib
import re
import socket
import struct
import tempfile
import threading

from determinism import determinism, drafted
from hostile import abandoned, drains, folder, framed, fuzzed, killed
from server import ENDLESS, HELLO, Server, events, run, send, wait
from siege import guessed, many, proxied, slow

try:
    import openai
except ImportError:
    openai = None
try:
    import jinja2
except ImportError:
    jinja2 = None

ROOT = pathlib.Path(__file__).parents[2]


def operations(server):
    assert server.ask("GET", "/health")[:2] == (200, {"status": "ok"})
    # A connection that the server will close is said to close.
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})[2]["Connection"] == "close"
    for path in ["/v1/models", "/models"]:
        assert server.ask("GET", path)[1]["data"][0]["object"] == "model"
    assert b"<!doctype html>" in server.ask("GET", "/")[1]
    for line in server.ask("GET", "/metrics")[1].decode().splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) rwkv_\w+ .+|rwkv_\w+ [\d.e+-]+", line), line
    # Only this machine may ask, unless all may.
    try:
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
        raise AssertionError("bound to all addresses")
    except ConnectionRefusedError:
        pass
    description = server.ask("GET", "/openapi.json")[1]
    for path, methods in description["paths"].items():
        for method in set(methods) - {"parameters"}:
            body = None if method in ["get", "delete"] else b"{"
            answer = server.ask(method.upper(), path.replace("{id}", "none"), body)[1]
            assert "There is no route" not in str(answer), (method, path, answer)
    status, answer, _ = server.ask("GET", "/v1/nothing")
    assert status == 404 and answer["error"]["type"] == "invalid_request_error"


def weather(**more):
    parameters = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Bonn", "Köln"]},
                                                   "days": {"type": "integer"}}, "required": ["city"], **more}
    return {"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": parameters}}


def schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def errors(server):
    for path, body, parameter in [
        ("/v1/completions", b"{", None), ("/v1/completions", b"[]", None), ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("/v1/completions", {"prompt": [1 << 40]}, "prompt"), ("/v1/completions", {"prompt": "a", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ("/v1/chat/completions", {"messages": HELLO, "tools": [{}]}, "tools[0].name"),
        ("/v1/chat/completions", {"messages": HELLO, "tools": [weather()], "tool_choice": "x"}, "tool_choice"),
        ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "xml"}}, "response_format.type"),
        ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_schema"}},
         "response_format.json_schema.schema"),
        ("/v1/embeddings", {}, "input"), ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input"), ("/v1/completions", {"prompt": ["a"] * 2049}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"), ("/v1/responses", {"input": []}, "input"),
        ("/tokenize", {}, "content"),
        ("/v1/states", {"prompt": "a", "name": "a" * 1025}, "name"),
    ]:
        status, answer, _ = server.ask("POST", path, body)
        assert status == 400, (path, body, status, answer)
        assert answer["error"]["param"] == parameter and answer["error"]["message"], (body, answer)
        # What is there and empty is not called missing.
        assert not ([] in body.values() if isinstance(body, dict) else False) or "empty" in answer["error"]["message"]
    # Whole numbers in any form, as JSON has one kind of them alone.
    assert server.ask("POST", "/v1/completions", b'{"prompt": [97.0, 9.7e1], "max_tokens": 2.0}')[0] == 200
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "state": "none"})[0] == 404


def texts(server):
    plain = server.complete(prompt="The database", max_tokens=20)
    text = plain["choices"][0]["text"]
    assert plain["usage"] == {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32,
                              "prompt_tokens_details": {"cached_tokens": 0}}, plain["usage"]
    assert plain["choices"][0]["finish_reason"] == "length" and len(text) == 20
    # Tokens are those that were chosen, whatever their text would be read as.
    odd = server.complete(prompt="a", max_tokens=3, logit_bias={"255": 100}, temperature=0)
    assert odd["usage"]["completion_tokens"] == 3 and odd["choices"][0]["text"] == "\ufffd" * 3, odd
    ids = server.ask("POST", "/tokenize", {"content": "The database"})[1]["tokens"]
    assert server.complete(prompt=ids, max_tokens=20)["choices"][0]["text"] == text
    both = server.complete(prompt=["The database", "The"], max_tokens=5)["choices"]
    assert [choice["index"] for choice in both] == [0, 1] and both[0]["text"] == text[:5]
    # A text that grows costs what is new.
    grown = server.complete(prompt="The database" + text, max_tokens=5)
    assert grown["usage"]["prompt_tokens_details"]["cached_tokens"] == 12, grown["usage"]
    alone = server.complete(prompt="The database" + text, max_tokens=5, no_cache=True)
    assert grown["choices"] == alone["choices"] and alone["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cut = server.complete(prompt="The database", max_tokens=20, stop=text[4:7])["choices"][0]
    assert cut["text"] == text[:text.index(text[4:7])] and cut["finish_reason"] == "stop"
    echo = server.complete(prompt="The database", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    logprobs = echo["logprobs"]
    assert echo["text"] == "The database" and len(logprobs["tokens"]) == 12
    assert logprobs["token_logprobs"][0] is None and all(p < 0 for p in logprobs["token_logprobs"][1:])
    assert logprobs["text_offset"] == list(range(12))
    echo = server.complete(prompt="größer", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert echo["text"] == "größer" and echo["logprobs"]["text_offset"] == [0, 1, 2, 3, 3, 4, 4, 5], echo
    # Streamed, the pieces are those of the whole.
    request = {"prompt": "größer", "max_tokens": 8, "echo": True, "logprobs": 1}
    whole = server.complete(**request)["choices"][0]
    pieces = [chunk["choices"][0] for chunk in events(server, request)]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for name in ["tokens", "token_logprobs", "text_offset"]:
        assert sum((piece["logprobs"][name] for piece in pieces if piece["logprobs"]), []) == whole["logprobs"][name]
    assert server.ask("POST", "/tokenize", {"prompt": "<|endoftext|>"})[1]["tokens"] == [0]
    assert server.ask("POST", "/detokenize", {"tokens": ids})[1]["content"] == "The database"


def keywords(server):
    """What is not known of JSON Schema is refused by its name, wherever it stands."""
    place = "response_format.json_schema.schema"
    text = {"type": "string"}
    for wrong, parameter in [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, ".properties.a.pattern"),
        ({"type": "array", "items": {"type": "number", "minimum": 1}}, ".items.minimum"),
        ({"type": "array", "items": {"anyOf": [text, {"oneOf": [text]}]}}, ".items.anyOf[1].oneOf"),
        ({"type": "object", "patternProperties": {}}, ".patternProperties"), ({"type": "list"}, ".type"),
        ({"type": "object", "additionalProperties": {"format": "date"}}, ".additionalProperties.format"),
        ({"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"not": {}}}}, ".$defs.a.not"),
        ({"type": "array", "items": {"$ref": "https://example.org/a"}}, ".items.$ref"),
        ({"type": "array", "items": {"$ref": "#/$defs/b"}}, ""), (text, ""), ({"anyOf": [], "type": "object"}, ".type"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, ".maxItems"), ([], ""), (False, ""),
        ({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}, ".required"),
    ]:
        status, answer, _ = server.ask("POST", "/v1/chat/completions",
                                       {"messages": HELLO, "response_format": schema(wrong)})
        assert status == 400 and answer["error"]["param"] == place + parameter, (wrong, answer)


def fits(value, schema, root):
    """Whether a value fits, told by a checker of its own."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].split("/")[-1]], root)
    if "anyOf" in schema:
        return any(fits(value, one, root) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
             "array": list, "object": dict}
    names = schema.get("type", list(kinds))
    kind = next((n for n in ([names] if isinstance(names, str) else names) if isinstance(value, kinds[n])
                 and (n == "boolean" or not isinstance(value, bool))), None)
    if kind == "array":
        return (schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30)
                and all(fits(each, schema.get("items", {}), root) for each in value))
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        return set(schema.get("required", [])) <= set(value) and all(
            fits(each, known[name], root) if name in known else others is not False
            and fits(each, others if isinstance(others, dict) else {}, root) for name, each in value.items())
    return kind is not None


def schemas(server):
    """What is written fits the schema, whole and streamed, whatever the seed."""
    node = {"type": "object", "properties": {"value": {"type": ["integer", "null"]}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"], "additionalProperties": False}
    for wanted in [
        {"type": "object", "properties": {"name": {"type": "string"}, "good": {"type": "boolean"}},
         "required": ["name", "good"], "additionalProperties": False, "title": "t", "description": "d"},
        {"type": "array", "items": {"enum": ["a", "größer", 12, 1.5, None, {"x": [1]}]}, "minItems": 3, "maxItems": 3},
        {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
                                          "kind": {"const": "q\"\n"}}, "required": ["kind"]},
        {"$ref": "#/$defs/node", "$defs": {"node": node}}, {"type": "array", "items": {"const": "größer 🙂 大"}, "maxItems": 3},
        {"anyOf": [{"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "array", "maxItems": 0}]},
    ]:
        for seed in range(4):
            # Quotes and brackets are likely, so that the text ends.
            request = {"messages": HELLO, "seed": seed, "temperature": 1, "max_tokens": 500, "top_p": 1,
                       "presence_penalty": 0, "logit_bias": {str(byte): 9 for byte in b'"}]' if byte},
                       "response_format": schema(wanted)}
            answer = server.ask("POST", "/v1/chat/completions", request)[1]["choices"][0]
            text = answer["message"]["content"]
            assert answer["finish_reason"] == "length" or fits(json.loads(text), wanted, wanted), (wanted, text)
            assert answer["finish_reason"] == "stop" or seed, answer
            if seed == 0:
                chunks = events(server, request, "/v1/chat/completions")
                pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks]
                # No character is cut in two.
                assert "".join(pieces) == text and "\ufffd" not in text
    # Numbers keep their digits.
    for number in ["9007199254740993", "123456789012345678901234567890", "0.1000000000000000055511", "-1.50", "1e400"]:
        for kind in ["const", "enum"]:
            value = number if kind == "const" else f"[{number}]"
            schema_ = b'{"type": "array", "items": {"%s": %s}, "minItems": 1, "maxItems": 1}' % (
                kind.encode(), value.encode())
            answer = server.ask("POST", "/v1/chat/completions", b"""{"messages": [{"role": "user", "content": "a"}],
                "max_tokens": 200, "seed": 1, "response_format": {"type": "json_schema", "json_schema": {"schema": %s}}}
                """ % schema_)[1]["choices"][0]["message"]["content"]
            assert "".join(answer.split()) == f"[{number}]", (number, answer)
    for seed in range(5):
        answer = server.ask("POST", "/v1/chat/completions", {
            "messages": HELLO, "seed": seed, "temperature": 1, "max_tokens": 9,
            "response_format": {"type": "json_object"}})[1]
        assert answer["choices"][0]["message"]["content"].strip().startswith("{"), answer


def tools(server):
    """Calls that have to come come; what is asked for by prompts is read strictly."""
    path = "/v1/chat/completions"
    for choice in ["required", {"type": "function", "function": {"name": "weather"}}]:
        request = {"messages": HELLO, "tools": [weather()], "tool_choice": choice, "max_tokens": 300, "seed": 3,
                   "temperature": 1, "logit_bias": {"125": 9, "34": 9}}
        answer = server.ask("POST", path, request)[1]["choices"][0]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None, answer
        call = answer["message"]["tool_calls"][0]
        assert call["type"] == "function" and call["id"] and call["function"]["name"] == "weather"
        assert fits(json.loads(call["function"]["arguments"]), weather()["function"]["parameters"], None), call
        chunks = events(server, request, path)
        deltas = [d for c in chunks for d in c["choices"][0]["delta"].get("tool_calls", [])]
        assert deltas[0]["function"]["name"] == "weather" and deltas[0]["index"] == 0 and deltas[0]["id"]
        assert "".join(d["function"]["arguments"] for d in deltas) == call["function"]["arguments"]
        assert not any(c["choices"][0]["delta"].get("content") for c in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    cut = server.ask("POST", path, {**request, "max_tokens": 20})[1]["choices"][0]
    assert cut["finish_reason"] == "length" and "tool_calls" not in cut["message"], cut
    assert cut["message"]["content"].startswith("{"), cut
    # What the model is told.
    told = server.ask("POST", path, {"messages": HELLO, "tools": [weather()], "max_tokens": 1})[1]["usage"]
    bare = server.ask("POST", path, {"messages": HELLO, "tools": [weather()], "tool_choice": "none", "max_tokens": 1})
    assert told["prompt_tokens"] > bare[1]["usage"]["prompt_tokens"] + 200
    history = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]},
               {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    assert server.ask("POST", path, {"messages": history, "max_tokens": 2})[0] == 200


def tolerance(server):
    """What clients send beside what is needed changes nothing."""
    path, settings = "/v1/chat/completions", {"max_tokens": 6, "temperature": 0}
    plain = server.ask("POST", path, {"messages": HELLO, **settings})[1]["choices"]
    for messages, more in [
        (HELLO, {"user": "u", "frobnicate": {"a": [1]}, "stop": None, "tools": [], "service_tier": "auto"}),
        (HELLO, {"model": "gpt-4o", "n": 1, "tool_choice": "none", "store": False, "metadata": {}}),
        ([{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}], {}),
        ([*HELLO, {"role": "assistant", "content": ""}], {}), ([*HELLO, {"role": "assistant", "content": None}], {}),
        ([{**HELLO[0], "name": "me", "refusal": None}], {"response_format": {"type": "text"}}),
        (HELLO, {"max_tokens": None, "max_completion_tokens": 6}),
    ]:
        status, answer, _ = server.ask("POST", path, {"messages": messages, **settings, **more})
        assert status == 200 and answer["choices"] == plain, (messages, more, answer)
    assert server.ask("POST", path, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})[0] == 400
    text = server.complete(prompt="The database", max_tokens=20)["choices"][0]["text"]
    for stop in [text[9:12], ["never", text[9:12]], [text[9:12], text[15:17]]]:
        assert server.complete(prompt="The database", max_tokens=20, stop=stop)["choices"][0]["text"] == text[:9]
        chunks = events(server, {"prompt": "The database", "max_tokens": 20, "stop": stop})
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text[:9]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    # An answer that is open goes on from its last character.
    opened = [*HELLO, {"role": "assistant", "content": "Well, "}]
    found = server.ask("POST", path, {"messages": opened, **settings})[1]["choices"][0]["message"]["content"]
    assert found == server.complete(prompt="HelloWell, ", max_tokens=6)["choices"][0]["text"]


def logprobs(server):
    chat = {"messages": HELLO, "max_tokens": 5, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    choice = server.ask("POST", "/v1/chat/completions", chat)[1]["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 5 and bytes(sum((one["bytes"] for one in content), [])).decode() == choice["message"]["content"]
    for one in content:
        assert len(one["top_logprobs"]) == 3 and one["top_logprobs"][0]["token"] == one["token"]
        assert one["top_logprobs"][0]["logprob"] == one["logprob"] <= 0
    chunks = events(server, chat, "/v1/chat/completions")
    assert sum((c["choices"][0]["logprobs"]["content"] for c in chunks if c["choices"][0]["logprobs"]), []) == content
    # A prompt in pieces and lists, each as alone; its sum is the same with one more token.
    prompts = [[84, 104, 101], [84, 104, 101, 32]]
    both = server.complete(prompt=prompts, max_tokens=0, echo=True, logprobs=2)["choices"]
    more = server.complete(prompt=prompts[0], max_tokens=1, echo=True, logprobs=2)["choices"][0]
    for index, prompt in enumerate(prompts):
        alone = server.complete(prompt=prompt, max_tokens=0, echo=True, logprobs=2)["choices"][0]
        assert alone["logprobs"] == both[index]["logprobs"] and len(alone["logprobs"]["tokens"]) == len(prompt)
        assert all(len(top) == 2 for top in alone["logprobs"]["top_logprobs"][1:])
    assert more["logprobs"]["token_logprobs"][:3] == both[0]["logprobs"]["token_logprobs"]


def framing(server):
    chunks = events(server, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6}, "/v1/chat/completions")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert not any("usage" in chunk for chunk in chunks)
    # Signs of life while a long prompt is read, and whole characters.
    assert events(server, {"prompt": "größer " * 100, "max_tokens": 3, "no_cache": True})
    last = events(server, {"prompt": "a", "max_tokens": 3, "stream_options": {"include_usage": True}})[-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3


def leaving(server):
    """A client that goes away frees its place: in its prompt and in its answer, streamed or not."""
    long = "word " * 20000
    for path, fields in [
        ("/v1/completions", {**ENDLESS, "stream": True}), ("/v1/completions", {**ENDLESS, "stream": False}),
        ("/v1/completions", {**ENDLESS, "stream": True, "prompt": long, "no_cache": True}),
        ("/v1/completions", {**ENDLESS, "stream": False, "prompt": long, "no_cache": True}),
        ("/v1/embeddings", {"input": [long, long]}), ("/v1/states", {"prompt": long + long}),
        ("/v1/responses", {"input": long, "no_cache": True}),
    ]:
        connection = send(server, path, **fields)
        wait(lambda: server.metric("requests_active") == 1)
        connection.close()
        wait(lambda: server.metric("requests_active") == 0, seconds=2)


def states(server):
    status, state, _ = server.ask("POST", "/v1/states", {"prompt": "The data", "name": "first"})
    assert status == 201 and state["tokens"] == 8
    whole = server.complete(prompt="The database", max_tokens=10)["choices"][0]["text"]
    answer = server.complete(prompt="base", state=state["id"], max_tokens=10, return_state=True)
    assert answer["choices"][0]["text"] == whole
    more = server.complete(prompt=" is", state=answer["state"], max_tokens=5)["choices"][0]["text"]
    assert more == server.complete(prompt="The database" + whole + " is", max_tokens=5)["choices"][0]["text"]
    file = server.ask("GET", f"/v1/states/{state['id']}/file")[1]
    assert server.ask("PUT", "/v1/states/mine/file", file)[0] == 201
    assert server.complete(prompt="base", state="mine", max_tokens=10)["choices"][0]["text"] == whole
    assert server.ask("PUT", "/v1/states/broken/file", file[:-9] + b"123456789")[0] == 400
    fork = server.ask("POST", "/v1/states/mine/fork")[1]
    assert fork["id"] in [entry["id"] for entry in server.ask("GET", "/v1/states")[1]["data"]]
    assert server.ask("DELETE", "/v1/states/mine")[0] == 200 and server.ask("GET", "/v1/states/mine")[0] == 404


def tuned(server):
    """A state that a model was tuned to, as training leaves it, may be uploaded; what is neither is refused."""
    checkpoint = ROOT / "examples/model/rwkv7-docs-5m.safetensors"
    with open(checkpoint, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    heads = {name.replace("r_k", "time_state"): header[name]["shape"] for name in header if name.endswith("att.r_k")}

    def file(value):
        (size,) = {heads_ * n * n for heads_, n in heads.values()}
        entries = {name: {"dtype": "F32", "shape": [h, n, n], "data_offsets": [4 * size * i, 4 * size * (i + 1)]}
                   for i, (name, (h, n)) in enumerate(heads.items())}
        head = json.dumps(entries).encode()
        # Not the same in all channels, which the norm after the recurrence would take out.
        values = struct.pack("<7f", *[value * index for index in range(7)]) * (size * len(heads) // 7 + 1)
        return len(head).to_bytes(8, "little") + head + values[:4 * size * len(heads)]

    def written(**fields):
        return server.complete(prompt="The database", max_tokens=12, logprobs=0, **fields)["choices"]

    for value in [0, 1]:
        status, answer, _ = server.ask("PUT", "/v1/states/tuned/file", file(value))
        assert status == 201 and answer["tokens"] == 0, answer
        assert (written(state="tuned") == written()) == (value == 0)
    for wrong in [b"nonsense", file(0)[:-4], file(float("nan")), b""]:
        status, answer, _ = server.ask("PUT", "/v1/states/wrong/file", wrong)
        assert status == 400 and "/tmp" not in answer["error"]["message"], answer


def keys():
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("one\ntwo\n")
        file.flush()
        with Server("--api-key-file", file.name, "--cors", "https://a.example") as server:
            assert server.ask("GET", "/v1/models")[0] == 401 and server.ask("GET", "/v1/models", key="on")[0] == 401
            assert server.ask("GET", "/health")[0] == 200 and server.ask("GET", "/v1/models", key="one")[0] == 200
            state = server.ask("POST", "/v1/states", {"prompt": "a"}, key="one")[1]["id"]
            assert server.ask("GET", f"/v1/states/{state}", key="one")[0] == 200
            assert server.ask("GET", f"/v1/states/{state}", key="two")[0] == 404
            allowed = server.ask("OPTIONS", "/v1/models", Origin="https://a.example")[2]
            assert allowed["Access-Control-Allow-Origin"] == "https://a.example"
            assert server.ask("OPTIONS", "/v1/models", Origin="https://b.example")[2]["Access-Control-Allow-Origin"] is None
            own = {"Origin": "https://a.example", "Access-Control-Request-Headers": "authorization, x-own"}
            assert server.ask("OPTIONS", "/v1/models", **own)[2]["Access-Control-Allow-Headers"] == "authorization, x-own"


def queue():
    with Server("--parallel", "1", "--queue", "1") as server:
        for stream in [False, True]:
            assert server.ask("POST", "/v1/completions", {"prompt": "a", "n": 3, "stream": stream})[0] == 429
        wait(lambda: server.metric("requests_active") == server.metric("requests_waiting") == 0)
        connections = [send(server, **ENDLESS)]
        wait(lambda: server.metric("requests_active") == 1)
        connections.append(send(server, **ENDLESS))
        wait(lambda: server.metric("requests_waiting") == 1)
        for stream in [False, True]:
            status, answer, headers = server.ask("POST", "/v1/completions", {**ENDLESS, "stream": stream})
            assert status == 429 and headers["Retry-After"] and answer["error"]["type"] == "rate_limit_error"
        assert server.ask("GET", "/health")[0] == 200
        # Who waits and leaves is gone, too.
        connections.pop().close()
        wait(lambda: server.metric("requests_waiting") == 0, seconds=2)
        connections.pop().close()


def thoughts(server):
    """What the template opens as a thought is one, and what it closes is the answer."""
    for way, field in [("on", "reasoning_content"), ("fake", "content"), ("off", "content")]:
        request = {"messages": HELLO, "reasoning": way, "max_tokens": 12, "temperature": 0}
        message = server.ask("POST", "/v1/chat/completions", request)[1]["choices"][0]["message"]
        assert [name for name in ["content", "reasoning_content"] if message.get(name)] == [field], message
    request = {"messages": HELLO, "reasoning": "on", "response_format": {"type": "json_object"}}
    assert server.ask("POST", "/v1/chat/completions", request)[1]["error"]["param"] == "reasoning"


def responses(server):
    """The Responses API: schemas and calls, whole and as events, and what tools have answered."""
    function = {"type": "function", **weather()["function"]}
    request = {"input": "Hello", "tools": [function], "tool_choice": "required", "max_output_tokens": 1500, "seed": 3,
               "temperature": 1}
    whole = server.ask("POST", "/v1/responses", request)[1]
    (call,) = whole["output"]
    assert call["type"] == "function_call" and call["name"] == "weather" and whole["status"] == "completed", whole
    assert fits(json.loads(call["arguments"]), function["parameters"], None)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    after = {"input": [result], "previous_response_id": whole["id"], "max_output_tokens": 5, "temperature": 0}
    gone_on = server.ask("POST", "/v1/responses", after)[1]
    said = [{"role": "user", "content": "Hello"}, call, result]
    again = server.ask("POST", "/v1/responses", {"input": said, "max_output_tokens": 5, "temperature": 0})[1]
    assert [item["content"] for item in gone_on["output"]] == [item["content"] for item in again["output"]]
    wanted = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}
    text = {"format": {"type": "json_schema", "name": "x", "schema": wanted}}
    answer = server.ask("POST", "/v1/responses", {"input": "Hello", "text": text, "max_output_tokens": 200})[1]
    assert fits(json.loads(answer["output"][0]["content"][0]["text"]), wanted, wanted), answer


def templates(server):
    """The template that other programs get writes the conversation that the server reads."""
    if jinja2 is None:
        return print("skipped: no jinja2")
    info = server.ask("GET", "/tokenizer_info")[1]
    template = jinja2.Environment().from_string(info["chat_template"])
    said = [{"role": "system", "content": " Be\r\n\r\nkind. "}, {"role": "user", "content": "It's 'a' \\ "},
            {"role": "assistant", "content": "one\n\n\ntwo"}, {"role": "user", "content": "\tb"}]
    for messages in [said, said[1:], said[:2], said[:3], [*said, {"role": "assistant", "content": " open, "}],
                     [*said[:2], said[0], said[3]]]:
        text = template.render(messages=messages, add_generation_prompt=True)
        settings = {"temperature": 0, "max_tokens": 8, "no_cache": True}
        chat = server.ask("POST", "/v1/chat/completions", {"messages": messages, **settings})[1]
        plain = server.ask("POST", "/v1/completions", {"prompt": text, **settings})[1]
        assert plain["usage"] == chat["usage"], (text, plain["usage"], chat["usage"])
        assert plain["choices"][0]["text"] == chat["choices"][0]["message"]["content"], text


def openai_client(server):
    if openai is None:
        return print("skipped: no openai (pip install openai==3.57.0)")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
    assert client.models.list().data
    messages = [{"role": "user", "content": "Say it."}]
    whole = client.chat.completions.create(model="x", messages=messages, max_tokens=12, seed=1)
    stream = client.chat.completions.create(model="x", messages=messages, max_tokens=12, seed=1, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content and text
    found = client.chat.completions.create(
        model="x", messages=messages, max_tokens=60, response_format={"type": "json_object"}, temperature=0)
    assert found.choices[0].message.content.lstrip()[0] in "{["
    vectors = client.embeddings.create(model="x", input=["a text", "another"]).data
    raw = server.ask("POST", "/v1/embeddings", {"input": "a text", "encoding_format": "base64"})[1]["data"][0]["embedding"]
    values = struct.unpack(f"<{len(vectors[0].embedding)}f", base64.b64decode(raw))
    assert max(abs(a - b) for a, b in zip(values, vectors[0].embedding)) < 1e-7
    assert abs(sum(value * value for value in values) - 1) < 1e-5
    try:
        client.chat.completions.create(model="x", messages=[{"role": "x", "content": ""}])
        raise AssertionError("no error")
    except openai.BadRequestError as error:
        assert "role" in error.message


def main():
    with Server("--template", "none") as server:
        run([operations, errors, tolerance, texts, logprobs, determinism, framing, leaving, states, tuned, framed, fuzzed,
             abandoned, openai_client], server)
    with Server("--template", "g1") as server:
        run([keywords, schemas, tools, thoughts, responses, templates], server)
    run([keys, queue, drains, folder, killed, drafted, guessed, slow, many, proxied])


os.environ.pop("OPENAI_API_KEY", None)
main()
