# SPDX-License-Identifier: MIT
"""Uses everything in the Python package, rightly and wrongly.

    every_method.py MODEL OTHER_MODEL HYBRID_MODEL LARGE_MODEL FOLDER

All models are byte-level with 256 tokens; the large one has some MiB of weights. Writes the logits after "hello world" to FOLDER/logits-python.
"""

import math
import pathlib
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from librwkv import Model, RWKVError, Sampler, __version__, quantize

path, other_path, hybrid_path, large_path, folder = sys.argv[1:]
HELLO = list(b"hello world")


def refuses(kind: type[BaseException], word: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        assert word in str(error), error
    else:
        raise AssertionError(f"expected {kind.__name__} about {word}")


def opening() -> Model:
    refuses(RWKVError, "No such file", lambda: Model("/nonexistent"))
    shares: list[float] = []
    model = Model(path, threads=2, progress=shares.append)
    assert max(shares) == 1  # from several threads
    refuses(RWKVError, "cancelled", lambda: Model(path, progress=lambda share: False))
    refuses(ZeroDivisionError, "", lambda: Model(path, progress=lambda share: share / 0 > 1))
    refuses(RWKVError, "at least", lambda: Model(path, memory_limit=1 << 20))
    assert Model(path, memory_limit=0).streamed_size == 0
    assert (model.architecture, model.name, model.vocabulary) == ("7", "model", 256)
    assert model.layers > 0 and model.embedding % model.heads == 0 and model.weight_size > 1000
    assert model.metadata["rwkv.vocabulary"] == "256" and __version__.count(".") == 2
    return model


def with_least_memory() -> Model:
    """The large model with the least limit that the library names, which grows with what the process has in use."""
    try:
        return Model(large_path, memory_limit=1 << 20)
    except RWKVError as error:
        least = int(re.search(r"at least (\d+) MiB", str(error))[1])  # type: ignore[index]
    return Model(large_path, memory_limit=(least + 1) << 20)


def little_memory() -> None:
    """Blocks stay in the file, and the numbers are the same."""
    whole, streamed = Model(large_path), with_least_memory()
    assert whole.streamed_size == 0 < streamed.streamed_size < whole.weight_size
    assert np.array_equal(whole.read(whole.new_state(), HELLO), streamed.read(streamed.new_state(), HELLO))
    # Freed while the next block is read ahead.
    for _ in range(20):
        brief = with_least_memory()
        brief.read(brief.new_state(), [1])
        del brief


def text(model: Model) -> None:
    assert model.encode("hello wörld").tolist() == list("hello wörld".encode())
    assert model.decode(HELLO) == b"hello world" and model.decode([]) == b"" and model.decode([0, 0xE4]) == b"\0\xe4"
    refuses(RWKVError, "vocabulary", lambda: model.decode([256]))
    refuses(ValueError, "negative", lambda: model.decode([-1]))
    refuses(TypeError, "token ids", lambda: model.decode([0.5]))


def states(model: Model, other: Model, hybrid: Model) -> None:
    state = model.new_state()
    logits = model.read(state, HELLO)
    logits.tofile(folder + "/logits-python")
    assert logits.dtype == np.float32 and logits.shape == (256,) and model.hidden().shape == (model.embedding,)
    fork, blank = state.copy(), model.new_state()
    state.save(folder + "/python.state", HELLO)
    loaded = model.load_state(folder + "/python.state")
    assert loaded.tokens.tolist() == HELLO and blank.tokens.size == 0 and blank.nbytes == state.nbytes
    restored = model.load_state(state.to_bytes())
    expected = model.read(state, [1, 2, 3])
    for same in (fork, loaded, restored):
        assert np.array_equal(model.read(same, [1, 2, 3]), expected)
    state.reset()
    shares: list[float] = []
    assert np.array_equal(model.read(state, np.array(HELLO, np.int64), shares.append), logits) and shares[-1] == 1
    refuses(RWKVError, "cancelled", lambda: model.read(state, HELLO, lambda share: False))
    refuses(RWKVError, "at least one", lambda: model.read(state, []))
    refuses(RWKVError, "belongs", lambda: other.read(state, HELLO))
    refuses(RWKVError, "No such file", lambda: model.load_state("/nonexistent"))
    refuses(RWKVError, "", lambda: model.load_state(b"no state"))
    assert np.array_equal(model.clone(1).read(blank, HELLO), logits)

    batch = [hybrid.new_state() for _ in range(3)]
    rows = hybrid.read_batch(batch, [1, 2, 3])
    assert all(np.array_equal(hybrid.read(hybrid.new_state(), [i + 1]), rows[i]) for i in range(3))
    refuses(ValueError, "2 tokens for 3", lambda: hybrid.read_batch(batch, [1, 2]))
    refuses(RWKVError, "busy", lambda: hybrid.read_batch([batch[0], batch[0]], [1, 2]))
    vectors = np.sin(np.arange(2 * model.embedding)).reshape(2, -1)
    assert np.isfinite(model.read_vectors(state, vectors)).all()
    refuses(ValueError, "shape", lambda: model.read_vectors(state, vectors[0]))
    refuses(RWKVError, "finite", lambda: model.read_vectors(state, np.full((1, model.embedding), np.nan)))


def sampling(model: Model) -> None:
    logits = model.read(model.new_state(), HELLO)
    first, second = (Sampler(model, seed=5, top_k=20, min_p=0.01, only_json=0) for _ in range(2))
    assert [first.sample(logits) for _ in range(20)] == [second.sample(logits) for _ in range(20)]
    first.reset()
    assert Sampler(model, temperature=0).sample(logits) == np.argmax(logits)
    only = Sampler(model, bias={token: -math.inf for token in range(256) if token != 120})
    assert only.sample(logits) == 120
    json = "".join(model.generate("hello", model.new_state(), max_tokens=40, only_json=1, seed=1)).lstrip()
    assert json[0] in "[{", json
    schema = {"type": "object", "properties": {"a": {"enum": [1, "x"]}}, "required": ["a"]}
    for given in (schema, str(schema).replace("'", '"')):
        json = "".join(model.generate("hello", max_tokens=60, json_schema=given, seed=2))
        assert "".join(json.split()) in ('{"a":1}', '{"a":"x"}'), json
    (row,) = model.generate_many([{"messages": [{"role": "user", "content": "x"}], "json_schema": schema}], max_tokens=60)
    assert "".join(row.text.split()) in ('{"a":1}', '{"a":"x"}') and row.finish_reason == "end", row
    refuses(RWKVError, "'pattern'", lambda: Sampler(model, json_schema={"type": "array", "pattern": "x"}))
    refuses(RWKVError, "no JSON", lambda: Sampler(model, json_schema="{"))
    refuses(RWKVError, "no option is called 'heat'", lambda: Sampler(model, heat=1))
    refuses(RWKVError, "temperature is -1", lambda: Sampler(model, temperature=-1))
    refuses(RWKVError, "no logits", lambda: first.sample([]))


def generation(model: Model) -> None:
    greedy: dict[str, Any] = {"temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}
    whole = model.generate("hello", max_tokens=30, **greedy)
    expected = "".join(whole)
    assert whole.finish_reason == "length" and next(whole, None) is None

    # Left in the middle, the state is where the last piece ends; the model is free again.
    state = model.new_state()
    text = model.generate("hello", state, max_tokens=30, **greedy)
    start = next(text) + next(text)
    refuses(RWKVError, "busy", lambda: model.read(state, HELLO))
    text.close()
    assert text.finish_reason == "cancelled" and next(text, None) is None
    written = len(model.encode(start))
    assert expected.startswith(start) and written < 30
    for piece in model.generate("hello", max_tokens=30, **greedy):  # noqa: B007
        break
    assert expected.startswith(piece)

    # What was held back, the beginning of a second character, is part of the text.
    text = model.generate("hello", max_tokens=30, bias={0xC3: 1e6}, **greedy)
    assert next(text) == "\ufffd" and text.text == "\ufffd"
    text.close()
    text.close()
    assert text.text == "\ufffd\ufffd" and text.tokens == [0xC3, 0xC3]

    # Other characters may stand for bytes that are none.
    stop = next(character for character in expected if character.isascii())
    stopped = model.generate("hello", max_tokens=30, stop=["never", stop], **greedy)
    assert "".join(stopped) == expected[: expected.index(stop)] and stopped.finish_reason == "stop"
    assert "".join(model.generate("hello", max_tokens=30, stop=stop, **greedy)) == expected[: expected.index(stop)]
    sampler = Sampler(model, seed=1)
    pieces = [*model.generate("hello", state, 5, sampler=sampler), *model.generate("", state, 5, sampler=sampler)]
    assert pieces
    refuses(TypeError, "not both", lambda: model.generate("x", sampler=sampler, top_k=3))
    refuses(RWKVError, "prompt is empty", lambda: list(model.generate("")))
    model.generate("never started").close()


def closing() -> None:
    with Model(path) as model, model.new_state() as state, Sampler(model) as sampler:
        logits = model.read(state, HELLO)
        with model.generate("hello", state, 20, sampler=sampler) as text:
            next(text)
        assert text.finish_reason == "cancelled"
    for use in (lambda: model.encode("x"), lambda: state.copy(), lambda: sampler.sample(logits)):
        refuses(RWKVError, "not alive", use)
    model.close()


def interrupting() -> None:
    """Ctrl-C cancels a long reading, also that of a prompt, and leaves the model usable."""
    model = Model(large_path)
    for long in (
        lambda: model.read(model.new_state(), HELLO * 1_000_000),
        lambda: next(model.generate("hello" * 1_000_000)),
    ):
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        refuses(KeyboardInterrupt, "", long)
        assert np.isfinite(model.read(model.new_state(), HELLO)).all()
    held = model.generate("hello" * 1_000_000)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    refuses(KeyboardInterrupt, "", lambda: next(held))
    assert np.isfinite(model.read(model.new_state(), HELLO)).all()
    assert not list(held) and held.finish_reason == "cancelled"


def quantizing() -> None:
    quantize(large_path, folder + "/python.rwkv", "int8")
    with Model(folder + "/python.rwkv") as small:
        assert small.weight_size < Model(large_path).weight_size / 2
    # A vocabulary of another order, and back to bytes.
    vocabulary, renamed = pathlib.Path(folder + "/vocabulary.txt"), folder + "/renamed.rwkv"
    vocabulary.write_text("".join(f"{id} {bytes([255 - id])} 1\n" for id in range(1, 256)))
    for given, ids in ((vocabulary, [158, 157]), ("bytes", [97, 98])):
        quantize(large_path, renamed, vocabulary=given)
        assert list(Model(renamed).encode("ab")) == ids
    refuses(RWKVError, "/nonexistent", lambda: quantize(large_path, renamed, vocabulary="/nonexistent"))
    refuses(RWKVError, "int3", lambda: quantize(large_path, folder + "/never.rwkv", "int3"))


signal.signal(signal.SIGALRM, signal.default_int_handler)
model, other, hybrid = opening(), Model(other_path), Model(hybrid_path)
little_memory()
text(model)
states(model, other, hybrid)
for one in (model, hybrid):
    sampling(one)
    generation(one)
closing()
interrupting()
quantizing()
