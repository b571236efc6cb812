# SPDX-License-Identifier: MIT
"""Many texts at once are the same as one after another, whatever rows they are with.

many.py MODEL OTHER_MODEL HYBRID_MODEL

All models are byte-level with 256 tokens.
"""

import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from librwkv import Model, Result, RWKVError, Session, State, _many

path, other_path, hybrid_path = sys.argv[1:]


def refuses(kind: type[BaseException], word: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        assert word in str(error), error
    else:
        raise AssertionError(f"expected {kind.__name__} about {word}")


def prompts(count: int) -> list[str]:
    """Of mixed lengths; some begin alike, some are longer than one pass."""
    return ["the same beginning of many " * (index % 5) + chr(97 + index % 26) * (1 + index % 90) for index in range(count)]


def generating(model: Model) -> None:
    texts = prompts(64)
    lengths = [index * 7 % 24 for index in range(64)]
    stop = ["\x00q", *(chr(97 + index) for index in range(0, 26, 3))]
    alone = [
        model.generate(text, max_tokens=length, seed=seed, top_p=1, stop=stop)
        for seed, (text, length) in enumerate(zip(texts, lengths), 3)
    ]
    expected = [("".join(text), text.finish_reason) for text in alone]
    assert "length" in {reason for _, reason in expected}
    rows = [{"prompt": text, "max_tokens": length} for text, length in zip(texts, lengths)]
    for max_rows in (1, 16, 64):
        results = list(model.generate_many(rows, seeds=range(3, 67), max_rows=max_rows, top_p=1, stop=stop))
        assert [result.index for result in results] == list(range(64))
        assert [(result.text, result.finish_reason) for result in results] == expected
    results = list(model.generate_many(rows, seed=3, ordered=False, top_p=1, stop=stop, logprobs=True))
    assert sorted(result.index for result in results) == list(range(64)) != [result.index for result in results]
    for result in results:
        assert (result.text, result.finish_reason) == expected[result.index]
        single = alone[result.index]
        assert result.tokens == single.tokens and np.allclose(result.logprobs, single.logprobs, atol=1e-9)
        assert result.logprob <= 0
    # One JSON value ends the row.
    objects = model.generate_many(["hello", "other"], seeds=[1, 2], only_json=1, max_tokens=60)
    for seed, (text, result) in enumerate(zip(["hello", "other"], objects), 1):
        assert result.text == "".join(model.generate(text, seed=seed, only_json=1, max_tokens=60))
    messages = [{"role": "user", "content": "hello"}]
    (answer,) = model.generate_many([messages], max_tokens=20, seed=4)
    assert answer.text == "".join(model.chat(messages, max_tokens=20, seed=4))


def failing(model: Model) -> None:
    """A row that cannot be written does not harm the others."""
    rows = ["fine", "", {"prompt": "fine", "temperature": -1}, {"messages": [{"role": "critic", "content": ""}]}, {}, 7]
    results = list(model.generate_many([*rows, {"prompt": "fine", "heat": 1}, "fine"], max_tokens=3, seed=0))
    words = [None, "prompt is empty", "temperature is -1", "role 'critic'", "either a prompt", "", "'heat'", None]
    for result, word in zip(results, words):
        assert (result.error is None) if word is None else (word in str(result.error) and not result.text), result
    assert len(results) == 8 and results[0].finish_reason == results[7].finish_reason == "length"
    mistakes: list[Any] = [
        {"temperature": "0.7"}, {"seed": None}, {"max_tokens": math.inf}, {"state": 1}, {"bias": {65: "a"}},
        {"bias": {"x": 1}}, {"bias": {-1: 1.0}}, {"seed": 10**400}, {"stop": 3},
    ]  # fmt: skip
    for mistake in mistakes:
        first, wrong, last = model.generate_many(["x", {"prompt": "x"} | mistake, "x"], max_tokens=1)
        assert first.error is None and wrong.error is not None and last.error is None, mistake
    for item in (None, 3, ["b", "c"], {}):
        for many in (model.score_many, model.embed_many):
            results = list(many(["x", item, "x"]))  # type: ignore[list-item]
            assert [result.error is None for result in results] == [True, False, True], item
    refuses(ValueError, "max_rows", lambda: next(model.generate_many(["x"], max_rows=65)))
    refuses(ValueError, "max_rows", lambda: next(model.embed_many(["x"], normalize=False, max_rows=0)))
    for many in (model.generate_many, model.score_many, model.embed_many):
        refuses(ValueError, "fewer seeds", lambda many=many: list(many(["x", "y"], seeds=[1])))
    # What was taken before an error of the iterable comes out first.
    for many, options in (
        (model.generate_many, {"max_tokens": 2}), (model.score_many, {}), (model.embed_many, {}),
        (model.embed_many, {"normalize": False}),
    ):  # fmt: skip
        found = []
        try:
            found += [0]
            for result in many((str(100 // (20 - index)) for index in range(30)), max_rows=4, **options):  # type: ignore[operator]
                found.append(result.index + 1)
        except ZeroDivisionError:
            assert found == list(range(21)), found
        else:
            raise AssertionError(many)
        for one in ("text", b"text", {"prompt": "text"}):
            refuses(TypeError, "an iterable of rows", lambda many=many, one=one: list(many(one)))


def uniformity(model: Model) -> None:
    """The three take the same arguments, and their results have the same fields."""
    texts = ["hello " * (1 + 40 * (index % 7 == 0)) + str(index) for index in range(30)]
    for many in (model.generate_many, model.score_many, model.embed_many):
        expected = list(many(texts))
        assert [result.index for result in expected] == list(range(30))
        results = list(many(texts, seeds=itertools.count(), max_rows=8, ordered=False))
        found = sorted(results, key=lambda result: result.index)
        for one, other in zip(expected, found):
            assert one.index == other.index and one.error is other.error is None
            for name in ("text", "tokens", "logprobs", "finish_reason", "logprob"):
                assert getattr(one, name) == getattr(other, name), name
            assert (one.text and one.tokens) or one.finish_reason
            assert one.vector is other.vector is None or np.array_equal(one.vector, other.vector)
            assert len(one.logprobs) == (0 if many == model.embed_many else len(one.tokens))
        assert many == model.generate_many or {result.finish_reason for result in results} == {None}
    (brief,) = model.generate_many(["x"], max_tokens=3, logprobs=False)
    assert len(brief.tokens) == 3 and not brief.logprobs


def streaming(model: Model) -> None:
    """Endless rows are taken as they are needed; leaving ends everything."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield "hello" * (1 + taken % 3)

    results = model.generate_many(endless(), max_rows=4, max_tokens=5)
    assert [result.index for result in itertools.islice(results, 20)] == list(range(20))
    assert taken <= 20 + 3 * 4
    results.close()  # type: ignore[attr-defined]
    # A long first row holds back few results: four for each row that is worked on at once. The others then are those
    # that were under way when the last of them came, twice as many, and those that were taken to be compared.

    def behind_a_long_one() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for taken in itertools.count(1):
            yield {"prompt": "x", "max_tokens": 200 if taken == 1 else 1}

    first = next(model.generate_many(behind_a_long_one(), max_rows=4, temperature=0))
    assert first.index == 0 and len(first.tokens) > 50
    assert taken == 4 * 4 - 1 + 2 * 4 + 3, taken
    # The interpreter goes on while the library works.
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    list(model.score_many(["hello world" * 400] * 4))
    done.set()
    thread.join()
    assert len(ticks) > 5
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    refuses(KeyboardInterrupt, "", lambda: list(model.generate_many(endless(), max_tokens=5)))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    refuses(KeyboardInterrupt, "", lambda: list(model.score_many(["hello" * 1_000_000])))
    assert np.isfinite(model.score("x").logprobs).all()


def scoring(model: Model) -> None:
    texts = prompts(40)
    for text, result in zip(texts, model.score_many(texts, max_rows=7)):
        tokens = [0, *text.encode()]
        logits = model.read_each(model.new_state(), tokens[:-1]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert result.tokens == tokens[1:] and result.text == text
        assert np.abs(logits[np.arange(len(text)), tokens[1:]] - result.logprobs).max() < 1e-9
        assert result.is_greedy == bool((logits.argmax(axis=1) == tokens[1:]).all())
    # What contexts share is read once, and nothing else changes.
    pairs = [("a context that is shared" + "!" * (index % 3), f" choice {index % 4}") for index in range(24)]
    for (context, text), result in zip(pairs, model.score_many(pairs)):
        whole = model.score(context + text)
        assert result.logprobs == whole.logprobs[len(context) :] and result.text == text
        assert result.logprobs == model.score(([0, *context.encode()], list(text.encode()))).logprobs
    errors = list(model.score_many(["", ("x", ""), [1, 256], [-1], "fine"]))
    assert [result.error is None for result in errors] == [False] * 4 + [True]
    refuses(ValueError, "no text", lambda: model.score(""))
    for wrong in (([256], [1]), ([-1], [1]), ([1], [256]), ([1], [-1]), ([1, 256], [2])):
        refuses(ValueError, "outside the model's vocabulary", lambda pair=wrong: model.score(pair))


class Counting(_many.Scheduler):
    """Counts the tokens that it is asked to read."""

    asked = 0

    def read(self, tokens: Any, state: State | None) -> int:
        Counting.asked += tokens.size
        return super().read(tokens, state)

    def score(self, tokens: Any, state: State | None, first: int) -> int:
        Counting.asked += tokens.size
        return super().score(tokens, state, first)


def sharing(model: Model) -> None:
    """What rows begin with together is read once; what some of them go on with together, too."""
    beginnings = ["x" * 200, "x" * 200 + "y" * 150, "z" * 30]
    pairs = [(beginnings[index % 3], f" choice {index}") for index in range(60)]
    expected = [model.score(context + text).logprobs[-len(text) :] for context, text in pairs]
    for max_rows in (5, 16):
        Counting.asked = 0
        with unittest.mock.patch.object(_many, "Scheduler", Counting):
            results = list(model.score_many(pairs, max_rows=max_rows))
        assert [result.logprobs for result in results] == expected
        # Token 0, the beginnings, and of each row the last token of its context and its text.
        assert Counting.asked <= 3 + 200 + 150 + 30 + 60 * 12, Counting.asked


def leaving(path: str) -> None:
    """A program that ends in the middle of a text does end."""
    program = "import sys, librwkv; g = librwkv.Model(sys.argv[1]).generate('x', max_tokens=1 << 30); next(iter(g))"
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=300)


def embedding(model: Model) -> None:
    texts = ["", *prompts(20)]
    for text, result in zip(texts, model.embed_many(texts, max_rows=6)):
        assert result.vector is not None and np.array_equal(result.vector, model.embed(text))
        assert math.isclose(float(result.vector @ result.vector), 1, abs_tol=1e-5)
    wrong = list(model.embed_many(["fine", 3]))  # type: ignore[list-item]
    assert wrong[0].vector is not None and wrong[1].error is not None
    (ids,) = model.embed_many([model.encode("fine").tolist()])
    assert ids.vector is not None and (ids.vector == wrong[0].vector).all()


def forking(model: Model) -> None:
    """A fork has no threads of its parent's: where they are needed, that is said."""
    model.score("x")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            model.score("x")
        except RWKVError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"spawn" in os.read(reader, 1000)


def pickling(model: Model, other: Model) -> None:
    expected = "".join(model.generate("hello", max_tokens=10))
    for original in (model, model.clone(1)):
        copy = pickle.loads(pickle.dumps(original))
        assert copy.identity == model.identity != other.identity
        assert "".join(copy.generate("hello", max_tokens=10)) == expected
    assert isinstance(pickle.loads(pickle.dumps(model.score("x"))), Result)
    data = pickle.dumps(model).replace(model.identity.encode(), b"0" * 16)
    refuses(RWKVError, "another model", lambda: pickle.loads(data))


def conversing(model: Model) -> None:
    talk = Session(model, system="brief")
    first = "".join(talk.send("hello", max_tokens=15, seed=1))
    assert first and talk.messages[-1] == {"role": "assistant", "content": first.strip()}
    fork = talk.fork()
    history = [*talk.messages, {"role": "user", "content": "more"}]
    second = "".join(talk.send("more", max_tokens=15, seed=2))
    assert second == "".join(model.chat(history, max_tokens=15, seed=2))
    assert second == "".join(fork.send("more", max_tokens=15, seed=2))
    assert len(talk.messages) == 5
    with model.chat([{"role": "user", "content": "hello"}], thinking="on", max_tokens=3) as answer:
        assert next(answer)
    refuses(RWKVError, "no template", lambda: model.chat([{"role": "user", "content": "x"}], template="chatml"))
    refuses(KeyError, "content", lambda: model.chat([{"role": "user"}]))


signal.signal(signal.SIGALRM, signal.default_int_handler)
model, other, hybrid = Model(path, threads=2), Model(other_path), Model(hybrid_path)
for one in (model, other, hybrid):
    generating(one)
    scoring(one)
    embedding(one)
sharing(model)
uniformity(model)
failing(model)
forking(model)
streaming(model)
pickling(model, other)
conversing(model)
leaving(path)
