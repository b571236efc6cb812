# SPDX-License-Identifier: MIT
"""Embedding models, rerankers and models whose states grow, from Python.

    embedding.py EMBEDDER RERANKER LANGUAGE_MODEL GROWING_MODEL

The tokens of the first, third and fourth are bytes. Prints the scores of three documents, one line each.
"""

import pickle
import sys
from collections.abc import Callable

import numpy as np
from librwkv import Model, RWKVError

embedder, reranker, language = (Model(path, threads=2) for path in sys.argv[1:4])
DOCUMENTS = ["bees dance", "", "concrete hardens"]


def refuses(word: str, call: Callable[[], object]) -> None:
    try:
        call()
    except (RWKVError, TypeError) as error:
        assert word in str(error), error
    else:
        raise AssertionError(f"expected an error about {word}")


def vectors() -> None:
    vector = embedder.embed("hello")
    assert np.array_equal(vector, embedder.embed("hello", task="retrieval"))
    assert not np.array_equal(vector, embedder.embed("hello", task="sts"))
    whole = embedder.embed("hello", normalize=False)
    assert np.linalg.norm(whole) > 1.2 and abs(np.linalg.norm(vector) - 1) < 1e-5
    assert np.allclose(whole / np.linalg.norm(whole), vector, atol=1e-6)
    many = [result.vector for result in embedder.embed_many(["hello", "other"], task="sts")]
    assert np.array_equal(many[0], embedder.embed("hello", task="sts"))
    refuses("only embedding models", lambda: language.embed("hello", task="sts"))
    refuses("expected one of", lambda: embedder.embed("hello", task="x"))  # type: ignore[arg-type]
    refuses("is an embedding model", lambda: embedder.read(embedder.new_state(), [1, 2]))
    refuses("is a reranker", lambda: reranker.read(reranker.new_state(), [0]))


def scores() -> None:
    ranked = embedder.rerank(reranker, "food?", DOCUMENTS)
    assert sorted(item.index for item in ranked) == [0, 1, 2]
    assert [item.score for item in ranked] == sorted((item.score for item in ranked), reverse=True)
    states = embedder.read_documents(DOCUMENTS)
    assert embedder.rerank(reranker, "food?", states) == ranked
    assert embedder.rerank(reranker, b"food?", [states[0], DOCUMENTS[1], states[2]]) == ranked
    kept = embedder.load_state(states[0].to_bytes())
    assert embedder.rerank(reranker, "food?", [kept])[0].score == next(i.score for i in ranked if i.index == 0)
    # More than are read together.
    many = embedder.rerank(reranker, "food?", DOCUMENTS * 30)
    assert {item.index % 3: item.score for item in many} == {item.index: item.score for item in ranked}
    assert embedder.rerank(reranker, "food?", []) == []
    refuses("is a language model", lambda: embedder.rerank(language, "food?", states))
    refuses("is a language model", lambda: language.read_documents(["a"]))
    # One text is not its letters.
    refuses("an iterable of rows", lambda: embedder.rerank(reranker, "food?", "Bees dance."))
    refuses("an iterable of rows", lambda: embedder.read_documents("Bees dance."))
    for item in sorted(ranked, key=lambda item: item.index):
        print(f"{item.score:.9g}")


def growing() -> None:
    model = Model(sys.argv[4], max_context=10)
    assert model.max_context == 10 and pickle.loads(pickle.dumps(model)).max_context == 10
    assert language.max_context is None and (Model(sys.argv[4]).max_context or 0) >= 1024
    state = model.new_state()
    model.read(state, list(range(1, 9)))
    refuses("10 tokens", lambda: model.read(state, [1, 2, 3]))
    model.read(state, [1, 2])


vectors()
scores()
growing()
