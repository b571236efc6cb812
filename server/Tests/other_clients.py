# SPDX-License-Identifier: MIT
"""Programs that bring a client of their own: LangChain, llm, lm-eval."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys

from place import TEXT, built, test


@test("langchain_openai")
def langchain(place):
    """LangChain's ChatOpenAI: one answer, a stream, several at once, and with a schema."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{place.url}/v1", api_key="any", model="tiny", temperature=0, max_tokens=12, seed=1)
    answer = chat.invoke("What is a database?")
    assert answer.content and answer.usage_metadata["output_tokens"] <= 12
    assert "".join(chunk.content for chunk in chat.stream("What is a database?")) == answer.content
    assert [each.content for each in chat.batch(["What is a database?"] * 3)] == [answer.content] * 3
    schema = {"title": "answer", "type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
    structured = chat.model_copy(update={"max_tokens": 300}).with_structured_output(schema, method="json_schema")
    assert set(structured.invoke("What is a database?")) == {"good"}
    tool = {"type": "function", "function": {"name": "judge", "parameters": schema}}
    (call,) = (
        chat.model_copy(update={"max_tokens": 300}).bind_tools([tool], tool_choice="judge").invoke("Hm?").tool_calls
    )
    assert call["name"] == "judge" and set(call["args"]) == {"good"}


@test("llm")
def llm(place):
    """simonw's llm, as a command: one prompt, and the conversation that goes on."""
    entry = {"model_id": "here", "model_name": "tiny", "api_base": f"{place.url}/v1"}
    (place.folder / "extra-openai-models.yaml").write_text(json.dumps([entry]))
    environment = {**os.environ, "LLM_USER_PATH": str(place.folder), "OPENAI_API_KEY": "any"}

    def run(*arguments):
        command = [
            sys.executable,
            "-m",
            "llm",
            "prompt",
            "-m",
            "here",
            "-o",
            "max_tokens",
            "12",
            "-o",
            "temperature",
            "0",
        ]
        return subprocess.run(
            [*command, *arguments], env=environment, check=True, capture_output=True, text=True
        ).stdout

    first = run("What is a database?")
    assert first.strip() and run("What is a database?", "--no-stream") == first
    assert run("And an index?", "-c").strip()


@test("lm_eval")
def lm_eval(place):
    """lm-eval finds the tokenizer by itself, and its sum is that of one window of rwkv-run perplexity."""
    os.environ.update({"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place.folder)})
    import lm_eval as evaluation
    from lm_eval.tasks import TaskManager

    (place.folder / "text.txt").write_text(TEXT)
    (place.folder / "text.jsonl").write_text(json.dumps({"text": TEXT}))
    item = {"question": "A database is", "choices": [" a table", " größer", " \x01\x02\x03"], "answer": 0}
    (place.folder / "items.jsonl").write_text(json.dumps(item))

    def task(name, file, **fields):
        data = {"data_files": {"test": str(place.folder / file)}}
        fields = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **fields}
        (place.folder / f"{name}.yaml").write_text(json.dumps(fields))

    bits = {"metric": "bits_per_byte"}
    task(
        "rolling",
        "text.jsonl",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[bits],
    )
    task(
        "choice",
        "items.jsonl",
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="{{choices}}",
        doc_to_target="{{answer}}",
        target_delimiter="",
        metric_list=[{"metric": "acc"}],
    )
    until = {"until": ["\n\n"], "max_gen_toks": 8}
    task(
        "written",
        "items.jsonl",
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs=until,
        metric_list=[{"metric": "exact_match"}],
    )
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        result = evaluation.simple_evaluate(
            model="local-completions",
            model_args=f"model=tiny,base_url={place.url}/v1/completions,max_length=100000,max_retries=1",
            tasks=["rolling", "choice", "written"],
            task_manager=TaskManager(include_path=str(place.folder), include_defaults=False),
            bootstrap_iters=0,
        )
    told = subprocess.run(
        [built("rwkv-run"), "perplexity", place.model, "-f", str(place.folder / "text.txt"), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(told.stdout)
    wanted = -told["tokens"] * told["nats_per_token"]
    found = result["samples"]["rolling"][0]["filtered_resps"][0]
    found = found[0] if isinstance(found, (list, tuple)) else found
    assert math.isclose(found, wanted, rel_tol=1e-6), (found, wanted)
    assert result["results"]["choice"]["acc,none"] == 1.0
    assert isinstance(result["samples"]["written"][0]["resps"][0][0], str)
