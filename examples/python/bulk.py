# SPDX-License-Identifier: MIT
"""A folder of JSON lines with a field "text" to perplexities, vectors or texts:

    python bulk.py MODEL score|embed|generate FOLDER OUT [one|ray|spark]

One process writes OUT as JSON lines; Ray and Spark write a folder of Parquet files.
"""

import json
import pathlib
import sys

from librwkv import Model

model, task, folder, out = sys.argv[1:5]
engine = sys.argv[5] if len(sys.argv) > 5 else "one"
options = {"max_tokens": 64} if task == "generate" else {}

if engine == "ray":
    import ray
    from librwkv.ray import Worker

    arguments = {"model": model, "task": task, "threads": 1, **options}
    documents = ray.data.read_json(folder)
    documents = documents.map_batches(Worker, fn_constructor_kwargs=arguments, concurrency=2, num_cpus=0.5)
    documents.write_parquet(out)
elif engine == "spark":
    from librwkv.spark import transform
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    transform(spark.read.json(folder), model, task, threads=1, **options).write.parquet(out)
else:
    paths = sorted(pathlib.Path(folder).glob("*.json*"))
    texts = (json.loads(line)["text"] for path in paths for line in path.open(encoding="utf-8"))
    with Model(model) as opened, open(out, "w", encoding="utf-8") as output:
        many = {"score": opened.score_many, "embed": opened.embed_many, "generate": opened.generate_many}[task]
        for result in many(texts, **options):
            row = {"index": result.index, "error": result.error and str(result.error)}
            if task == "score":
                row |= {"logprob": result.logprob, "tokens": len(result.tokens)}
            elif task == "embed":
                row["embedding"] = [] if result.vector is None else result.vector.tolist()
            else:
                row["text"] = result.text
            output.write(json.dumps(row) + "\n")
