#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Talks to rwkv-serve with the clients that people use, and compares what comes back with what rwkv-run says.

    pip install openai==3.54.0 langchain-openai==1.7.4 llm==0.36 "lm-eval[api]==0.4.13"
    server/Tests/clients.py [--url URL | --server PROGRAM] [TEST]...

The model is the one in examples/model. Programs are taken from the builds in this checkout; with --url, a server that
runs already is asked (that model, --template g1). A client that is not installed is skipped, and a line says so.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from place import ROOT, TEXT, Place, Server, built, test, tests

with contextlib.suppress(ImportError):
    import openai

MESSAGES = [{"role": "user", "content": "What is a database?"}]


def refused(kind, call, **arguments):
    """The error of this openai class that the call ends with."""
    try:
        call(**arguments)
    except getattr(openai, kind) as error:
        return error
    raise AssertionError(f"no {kind}")


@test("openai")
def chat(place):
    """One answer, in one piece and as a stream: the same text, roles, reasons and usage."""
    client = place.openai()
    assert [model.id for model in client.models.list()] == ["tiny"]
    settings = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "seed": 5, "temperature": 1.0}
    whole = client.chat.completions.create(**settings)
    (choice,), usage = whole.choices, whole.usage
    assert choice.message.role == "assistant" and choice.finish_reason in ("length", "stop")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and 0 < usage.completion_tokens <= 40
    assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens

    chunks = list(client.chat.completions.create(**settings, stream=True))
    assert all(len(chunk.choices) == 1 for chunk in chunks), "a chunk without choices that nobody asked for"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and not any(delta.role for delta in deltas[1:])
    assert "".join(delta.content or "" for delta in deltas) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [choice.finish_reason]

    *_, last = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    assert not last.choices and last.usage.completion_tokens == usage.completion_tokens
    other = client.chat.completions.create(**{**settings, "seed": 6})
    assert other.choices[0].message.content != choice.message.content
    assert client.chat.completions.create(**settings).choices[0].message.content == choice.message.content
    shorter = client.chat.completions.create(**{**settings, "max_tokens": None}, max_completion_tokens=3)
    assert shorter.choices[0].finish_reason == "length" and shorter.usage.completion_tokens == 3


@test("openai")
def choices_and_stops(place):
    """Choices with an index in every chunk, each by a seed of its own; stop strings are never shown."""
    client = place.openai()
    settings = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "seed": 5, "temperature": 1.0, "n": 3}
    whole = client.chat.completions.create(**settings)
    texts = [choice.message.content for choice in sorted(whole.choices, key=lambda choice: choice.index)]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    alone = client.chat.completions.create(**{**settings, "n": 1}).choices[0].message.content
    assert alone == texts[0]
    end = alone[5:8]
    for stop in (end, ["\x07", end]):
        cut = client.chat.completions.create(**{**settings, "n": 1}, stop=stop).choices[0]
        assert cut.finish_reason == "stop" and cut.message.content == alone[: alone.index(end)]


@test("openai")
def chat_logprobs(place):
    """Every token with its bytes and alternatives; the greedy one is the likeliest."""
    answer = place.openai().chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=12,
        temperature=0,
        # The template's own penalties would choose others.
        presence_penalty=0,
        frequency_penalty=0,
        logprobs=True,
        top_logprobs=3,
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    written = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    assert written.strip().startswith(answer.choices[0].message.content.strip())
    for entry in entries:
        likely = [top.logprob for top in entry.top_logprobs]
        assert len(likely) == 3 and likely == sorted(likely, reverse=True) and entry.logprob == likely[0] <= 0


@test("openai")
def legacy_completions(place):
    """Texts, token ids and lists of either; echo with the log-probabilities of the prompt, for no token and for one."""
    client = place.openai()
    settings = {"model": "tiny", "temperature": 0, "seed": 1, "echo": True, "logprobs": 2}
    prompts = ["The database", "größer 🙂 now"]
    ids = [list(prompt.encode()) for prompt in prompts]
    for count in (0, 1):
        by_text = client.completions.create(prompt=prompts, max_tokens=count, **settings)
        by_ids = client.completions.create(prompt=ids, max_tokens=count, **settings)
        for i, (one, other) in enumerate(zip(by_text.choices, by_ids.choices)):
            assert one.index == i and one.text == other.text and one.text.startswith(prompts[i])
            found = one.logprobs
            assert found.token_logprobs == other.logprobs.token_logprobs
            assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == len(ids[i]) + count
            assert found.token_logprobs[0] is None and all(x <= 0 for x in found.token_logprobs[1:])
            # A token's own value, and the likeliest ones.
            assert all(2 <= len(top) <= 3 for top in found.top_logprobs[1:]), found.top_logprobs
        assert by_text.usage.prompt_tokens == sum(map(len, ids))
    two = client.completions.create(model="tiny", prompt="The", n=2, seed=3, temperature=1, max_tokens=16)
    assert [choice.index for choice in two.choices] == [0, 1] and two.choices[0].text != two.choices[1].text
    streamed = client.completions.create(model="tiny", prompt="The", seed=3, temperature=1, max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == two.choices[0].text
    assert (
        refused("BadRequestError", client.completions.create, model="tiny", prompt="The", best_of=2).param == "best_of"
    )


@test("openai")
def errors(place):
    """Mistakes come back with their place, as openai's own classes."""
    client = place.openai()
    create = client.chat.completions.create
    error = refused("BadRequestError", create, model="tiny", messages=MESSAGES, temperature=-1)
    assert error.param == "temperature" and "temperature" in error.message
    assert (
        "wizard"
        in refused("BadRequestError", create, model="tiny", messages=[{"role": "wizard", "content": ""}]).message
    )
    refused("BadRequestError", create, model="tiny", messages=[])
    refused("NotFoundError", client.get, path="/no/such/route", cast_to=object)
    assert create(model="tiny", messages=MESSAGES, max_tokens=1, extra_body={"unknown_field": 1}).choices


@test("openai", "pydantic")
def structured(place):
    """What is asked for as an object comes back as one, even from a model that knows none."""
    import typing

    import pydantic

    class Answer(pydantic.BaseModel):
        """What the model must write."""

        known: bool
        colour: typing.Literal["red", "green"]

    client = place.openai()
    schema = {"name": "x", "schema": {"type": "object", "patternProperties": {"a": {}}}}
    schema = {"type": "json_schema", "json_schema": schema}
    create = client.chat.completions.create
    error = refused("BadRequestError", create, model="tiny", messages=MESSAGES, response_format=schema)
    assert "patternProperties" in error.message
    for seed in range(3):
        settings = {"model": "tiny", "messages": MESSAGES, "seed": seed, "max_tokens": 400}
        parsed = client.chat.completions.parse(**settings, response_format=Answer).choices[0]
        assert parsed.finish_reason == "stop" and isinstance(parsed.message.parsed, Answer)


@test("openai")
def json_mode(place):
    """What is asked for as JSON is an object, or its beginning."""
    for seed in range(3):
        answer = place.openai().chat.completions.create(
            model="tiny", messages=MESSAGES, seed=seed, max_tokens=400, response_format={"type": "json_object"}
        )
        (choice,) = answer.choices
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict), choice
        else:
            assert choice.message.content.lstrip().startswith("{"), choice


@test("openai")
def tools(place):
    """Tools are taken, and a call that was made and answered is read; whatever the model writes is no error."""
    client = place.openai()
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": parameters}}
    settings = {"model": "tiny", "messages": MESSAGES, "tools": [tool], "max_tokens": 20}
    for choice in ("auto", "none"):
        answer = client.chat.completions.create(**settings, tool_choice=choice).choices[0]
        for call in answer.message.tool_calls or []:
            assert isinstance(json.loads(call.function.arguments), dict) and answer.finish_reason == "tool_calls"
    # Quotes and brackets are likely, so that the text ends.
    forced = {**settings, "tool_choice": "required", "max_tokens": 400, "seed": 1, "logit_bias": {"34": 9, "125": 9}}
    answer = client.chat.completions.create(**forced).choices[0]
    (call,) = answer.message.tool_calls
    assert answer.finish_reason == "tool_calls" and call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    with client.chat.completions.stream(**forced) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert client.chat.completions.create(**{**settings, "messages": history}).choices[0].message.role == "assistant"


@test("openai", "numpy")
def embeddings(place):
    """The client's base64 and plain numbers are the same vectors, of length 1, from texts and from token ids."""
    client = place.openai()
    texts = ["a database", "größer"]
    packed = client.embeddings.create(model="tiny", input=texts)
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    ids = client.embeddings.create(model="tiny", input=[list(text.encode()) for text in texts], encoding_format="float")
    for one, two, three in zip(packed.data, plain.data, ids.data):
        assert one.index == two.index and len(one.embedding) == 256 and two.embedding == three.embedding
        assert all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(one.embedding, two.embedding))
        assert math.isclose(sum(x * x for x in two.embedding), 1, rel_tol=1e-4)
    assert packed.data[0].embedding != packed.data[1].embedding and packed.usage.prompt_tokens > 0


@test("openai")
def responses(place):
    """The Responses API: what was said before is known by its id; events end with the whole."""
    client = place.openai()
    settings = {"model": "tiny", "max_output_tokens": 12, "temperature": 0}
    first = client.responses.create(input="What is a database?", **settings)
    assert first.output_text and first.usage.output_tokens <= 12
    second = client.responses.create(input="And an index?", previous_response_id=first.id, **settings)
    said = [
        *MESSAGES,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And an index?"},
    ]
    assert second.output_text == client.responses.create(input=said, **settings).output_text
    with client.responses.stream(input="What is a database?", **settings) as stream:
        events = list(stream)
    # The client has a final response only of those that were not cut.
    assert events[0].type == "response.created" and events[-1].type == f"response.{first.status}"
    assert events[-1].response.output_text == first.output_text
    refused("NotFoundError", client.responses.create, input="x", previous_response_id="resp_none", **settings)


@test("openai")
def states(place):
    """A conversation goes on from a state as from its messages; a file of it can be taken away and brought back."""
    client = place.openai()
    settings = {"model": "tiny", "max_tokens": 10, "temperature": 0}
    first = client.chat.completions.create(messages=MESSAGES, extra_body={"return_state": True}, **settings)
    state, text = first.state, first.choices[0].message.content
    asked = [{"role": "user", "content": "And an index?"}]
    history = [*MESSAGES, {"role": "assistant", "content": text}, *asked]
    whole = client.chat.completions.create(messages=history, **settings)
    uncached = client.chat.completions.create(messages=history, extra_body={"no_cache": True}, **settings)
    gone_on = client.chat.completions.create(messages=asked, extra_body={"state": state}, **settings)
    contents = {answer.choices[0].message.content for answer in (whole, uncached, gone_on)}
    assert len(contents) == 1, contents
    assert whole.usage.prompt_tokens_details.cached_tokens > 0 == uncached.usage.prompt_tokens_details.cached_tokens

    file = urllib.request.urlopen(f"{place.url}/v1/states/{state}/file").read()
    client.delete(f"/states/{state}", cast_to=object)
    create = client.chat.completions.create
    refused("NotFoundError", create, messages=asked, extra_body={"state": state}, **settings)
    client.put("/states/mine/file", cast_to=object, content=file)
    brought = create(messages=asked, extra_body={"state": "mine"}, **settings)
    assert brought.choices[0].message.content in contents
    assert "mine" in [state["id"] for state in client.get("/states", cast_to=object)["data"]]
    assert client.post("/states/mine/fork", cast_to=object)["id"] != "mine"
    refused("BadRequestError", client.put, path="/states/bad/file", cast_to=object, content=file[:-1])


@test("openai")
def many_at_once(place):
    """Sixteen streams at once, some of them left early: the others' texts are those that come alone."""

    async def ask(client, seed):
        settings = {"prompt": TEXT[seed * 40 : seed * 90], "seed": seed, "temperature": 1.0, "max_tokens": 20 + seed}
        stream = await client.completions.create(model="tiny", stream=True, **settings)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].text
            if seed % 5 == 4:
                await stream.close()
                return None
        return text

    async def run():
        async with place.openai("AsyncOpenAI") as client:
            together = await asyncio.gather(*(ask(client, seed) for seed in range(1, 17)))
            return together, [await ask(client, seed) for seed in range(1, 17)]

    together, alone = asyncio.run(run())
    assert together == alone


@test("openai")
def keys(place):
    """Whoever has no key is told so; health needs none. Nobody sees the states of another key."""
    if not place.program:
        return
    file = place.folder / "keys"
    file.write_text("first\nsecond\n")
    server = Server(place.program, place.model, "--api-key-file", str(file))
    with contextlib.closing(server):
        there = Place(server.url, place.model, place.folder, None)
        refused("AuthenticationError", there.openai().models.list)
        assert urllib.request.urlopen(f"{server.url}/health").status == 200
        first, second = (there.openai().with_options(api_key=key) for key in ("first", "second"))
        answer = first.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=2, extra_body={"return_state": True}
        )
        assert second.get("/states", cast_to=object)["data"] == []
        path = f"/states/{answer.state}/file"
        refused("NotFoundError", second.get, path=path, cast_to=object)
        repeated = second.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
        assert repeated.usage.prompt_tokens_details.cached_tokens == 0


def importable(name):
    """Whether it is installed, with all that it needs."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def main():
    import other_clients  # noqa: F401 whose tests come after those above

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url")
    parser.add_argument("--server", metavar="PROGRAM")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = str(folder / "tiny.rwkv")
        checkpoint = str(ROOT / "examples/model/rwkv7-docs-5m.safetensors")
        subprocess.run([built("rwkv-quantize"), checkpoint, model], check=True, capture_output=True)
        program = None if options.url else options.server or built("rwkv-serve")
        server = Server(program, model) if program else None
        place = Place(options.url or server.url, model, folder, program)
        for function, needed in tests:
            if options.tests and function.__name__ not in options.tests:
                continue
            missing = [name for name in needed if not importable(name)]
            if missing:
                print(f"skipped {function.__name__}: not installed: {', '.join(missing)}")
                continue
            try:
                function(place)
                print(f"ok      {function.__name__}")
            except Exception as error:  # noqa: BLE001 the other tests go on
                failed.append(function.__name__)
                line = error.__traceback__.tb_next.tb_lineno if error.__traceback__.tb_next else 0
                print(f"FAILED  {function.__name__}, line {line}: {type(error).__name__}: {error}")
        if server:
            server.close()
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
