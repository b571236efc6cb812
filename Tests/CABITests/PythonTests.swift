// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import Testing

/// The Python package, with the packages of Tests/CABITests/requirements.txt, which tools/test.sh installs.
extension CABITests {
  /// What a test needs, and how to get it.
  static func has(_ modules: String) -> ConditionTrait {
    .enabled("needs Python's \(modules): tools/test.sh installs them into .build/venv") {
      try shell("\(interpreter) -c 'import \(modules)'").status == 0
    }
  }

  /// That of the folder which tools/test.sh makes, else the system's.
  private static var interpreter: String {
    let own = root.appending(path: ".build/venv/bin/python").path
    return FileManager.default.isExecutableFile(atPath: own) ? own : "python3"
  }

  /// Python with the package as it stands in the tree, and the library of these tests.
  private static func python(_ place: Workplace) -> String {
    "PYTHONPATH=python RWKV_LIBRARY=\(place.path)/librwkv.so.0 \(interpreter) -B"
  }

  /// Runs a program of this folder with the names of models and a folder for what it writes.
  private static func program(_ name: String, _ models: [String], output: String? = nil) throws {
    let place = try Workplace.shared.get()
    let arguments = models.map { "\(place.path)/\($0).rwkv" } + [output].compactMap(\.self)
    try require("\(python(place)) Tests/CABITests/Programs/\(name) \(arguments.joined(separator: " "))")
  }

  @Test(has("numpy")) func exampleInPythonRuns() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "\(Self.python(place)) examples/python/example.py \(place.path)/model.rwkv 'hello wörld' \(place.output())"
    )
  }

  @Test(has("numpy")) func everyMethodWorksFromPython() throws {
    let place = try Workplace.shared.get()
    let output = try place.output()
    try Self.program("every_method.py", ["model", "other", "hybrid", "large"], output: output)
    try Self.sameLogits(place, output + "/logits-python")
  }

  /// What the docstrings show is so, and docs/python-api.md is made of them.
  @Test(has("numpy")) func thePackageIsDocumented() throws {
    let place = try Workplace.shared.get()
    let checkpoint = place.checkpoint("v7-std/model.safetensors")
    try Self.require(
      "\(Self.python(place)) Tests/CABITests/Programs/documented.py \(place.path)/model.rwkv \(checkpoint) "
        + "\(place.path)/embedder.rwkv \(place.path)/reranker.rwkv \(place.output())")
    try Self.require("\(Self.python(place)) tools/develop/python-api.py --check")
  }

  /// Folders of JSON lines and of Parquet files to perplexities, embeddings and summaries, in one process.
  @Test(has("numpy, pyarrow")) func exampleOfBulkWorkRuns() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "\(Self.python(place)) Tests/CABITests/Programs/tables.py one \(place.path)/model.rwkv \(place.output())"
    )
  }

  @Test(has("numpy")) func embeddingModelsAndRerankersWorkFromPython() throws {
    let place = try Workplace.shared.get()
    let result = try Self.shell(
      "\(Self.python(place)) Tests/CABITests/Programs/embedding.py \(Self.embeddingModels(place))")
    #expect(result.status == 0, "\(result.output)")
    #expect(try result.output == Self.scoresInSwift(place))
  }

  @Test(has("numpy")) func manyTextsAreTheSameAsEach() throws {
    try Self.program("many.py", ["model", "other", "hybrid"])
  }

  /// Also killed at any time, which must not repeat or lose a row.
  @Test(has("numpy")) func batchFilesGoOnWhereTheyStopped() throws {
    try Self.program("batch.py", ["model", "other"], output: Workplace.shared.get().output())
  }

  @Test(has("lm_eval")) func evaluationEqualsAPlainLoop() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "\(Self.python(place)) Tests/CABITests/Programs/evaluation.py \(place.path)/large.rwkv "
        + "examples/model/heldout.txt \(place.path)/evaluation")
  }

  @Test(has("ray, pandas, pyarrow")) func rayEqualsOneProcess() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "\(Self.python(place)) Tests/CABITests/Programs/tables.py ray \(place.path)/model.rwkv \(place.output())"
    )
  }

  static let hasJava: ConditionTrait = .enabled("needs Java, for Spark: Debian's default-jre-headless") {
    try shell("command -v java").status == 0
  }

  @Test(has("pyspark, pandas, pyarrow"), hasJava) func sparkEqualsOneProcess() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "\(Self.python(place)) Tests/CABITests/Programs/tables.py spark \(place.path)/model.rwkv \(place.output())"
    )
  }

  @Test(has("mypy, ruff")) func thePackageIsTypedAndTidy() throws {
    try Self.require(
      "cd python && \(Self.interpreter) -m ruff check . && \(Self.interpreter) -m ruff format --check .")
    try Self.require("cd python && \(Self.interpreter) -m mypy")
  }

  /// Built as people build it, and installed where nothing else is.
  @Test(has("hatchling, pip")) func theWheelCarriesItsLibrary() throws {
    let place = try Workplace.shared.get()
    try Self.require(
      "RWKV_LIBRARY=\(place.path)/librwkv.so.0 \(Self.interpreter) -m pip wheel ./python -q --no-deps "
        + "--no-build-isolation -w \(place.path)/wheel")
    // The library of tests needs Swift's runtime, which not every Linux has.
    let name = try Self.shell("ls \(place.path)/wheel").output
    #expect(name.hasPrefix("librwkv-") && name.contains("-py3-none-linux_"))
    try Self.require(
      "\(Self.interpreter) -m pip install -q --no-deps --no-index --target \(place.path)/installed-python "
        + "\(place.path)/wheel/*.whl")
    try Self.require("test -e \(place.path)/installed-python/librwkv/py.typed")
    // What is linked in has licences that want to be there.
    for name in ["LICENSE", "NOTICES.md", "licenses/swift.txt", "licenses/zstd.txt"] {
      try Self.require("test -s \(place.path)/installed-python/librwkv-*.dist-info/licenses/\(name)")
    }
    try Self.require(
      "PYTHONPATH=\(place.path)/installed-python \(Self.interpreter) -B examples/python/example.py "
        + "\(place.path)/model.rwkv 'hello wörld' \(place.output())")
  }
}
