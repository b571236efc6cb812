// SPDX-License-Identifier: MIT
import CRWKVABI
import Foundation
import RWKV
import RWKVQuantization
import Testing

/// The C library: programs that use it are compiled, linked and run. `swift build --product rwkv` makes it.
@Suite("C interface")
struct CABITests {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized
  static let programs = root.appending(path: "Tests/CABITests/Programs").path

  struct Result {
    let status: Int32
    let output: String
  }

  /// Runs a command of the shell in the package's folder.
  @discardableResult
  static func shell(_ command: String) throws -> Result {
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", command + " 2>&1"]
    process.currentDirectoryURL = root
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return Result(status: process.terminationStatus, output: String(decoding: data, as: UTF8.self))
  }

  static func require(_ command: String) throws {
    let result = try shell(command)
    #expect(result.status == 0, "\(command)\n\(result.output)")
  }

  /// A folder with the library under the names that linkers and loaders look for, and models; removed at exit.
  final class Workplace: Sendable {
    static let shared = Swift.Result { try Workplace() }
    let path: String

    /// Beside the test bundle that is being run.
    static var builtFolder: String {
      let bundle = CommandLine.arguments.first { $0.contains(".xctest") }
      let folder = bundle.map {
        ($0.components(separatedBy: ".xctest")[0] as NSString).deletingLastPathComponent
      }
      return folder ?? CABITests.root.appending(path: ".build/debug").path
    }

    private init() throws {
      path = NSTemporaryDirectory() + "rwkv-cabi-\(getpid())"
      let files = FileManager.default
      try files.createDirectory(atPath: path, withIntermediateDirectories: true)
      atexit { try? FileManager.default.removeItem(atPath: NSTemporaryDirectory() + "rwkv-cabi-\(getpid())") }
      let library = Self.builtFolder + "/librwkv.so"
      try #require(files.fileExists(atPath: library), "make it with: swift build --product rwkv")
      for name in ["librwkv.so", "librwkv.so.0"] {
        try files.createSymbolicLink(atPath: path + "/" + name, withDestinationPath: library)
      }
      for (name, golden) in [
        ("model", "v7-std/model.safetensors"), ("other", "v6-hf"), ("hybrid", "x-one/model.pth"),
        ("embedder", "emb-std/model.pth"), ("reranker", "rerank-std/model.pth"),
        ("growing", "v7b-std/model.safetensors"),
      ] {
        var options = ConversionOptions()
        options.type = .int8
        options.tokenizer = name == "reranker" ? .automatic : .bytes
        _ = try Conversion.convert(checkpoint(golden), to: "\(path)/\(name).rwkv", options)
      }
      var options = ConversionOptions()
      options.type = .fp32
      let trained = CABITests.root.appending(path: "examples/model/rwkv7-docs-5m.safetensors").path
      _ = try Conversion.convert(trained, to: "\(path)/large.rwkv", options)
    }

    func checkpoint(_ name: String) -> String {
      CABITests.root.appending(path: "Tests/Fixtures/goldens/\(name)").path
    }

    /// A new folder for what one test writes.
    func output() throws -> String {
      let folder = "\(path)/out-\(UUID().uuidString)"
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
      return folder
    }

    /// The arguments of every_function, but for the folder that it writes to.
    var arguments: String {
      "\(path)/model.rwkv \(path)/other.rwkv \(path)/hybrid.rwkv \(checkpoint("v7-std/model.safetensors"))"
    }

    /// Compiles a program against header and library, with all warnings as errors.
    func compile(_ compiler: String, _ source: String, to name: String) throws {
      try CABITests.require(
        "\(compiler) -Wall -Wextra -pedantic -Werror -ISources/CRWKVABI/include \(CABITests.programs)/\(source) "
          + "-o \(path)/\(name) -L\(path) -lrwkv -lm -lpthread")
    }

    func run(_ command: String) throws { try CABITests.require("LD_LIBRARY_PATH=\(path) \(path)/\(command)") }
  }

  @Test func exactlyTheHeadersFunctionsAreExported() throws {
    let place = try Workplace.shared.get()
    let symbols = try Self.shell(
      "nm -D --defined-only \(place.path)/librwkv.so | awk '{print $3}' | sort")
    let expected = try String(
      contentsOf: Self.root.appending(path: "Tests/CABITests/exported-symbols.txt"), encoding: .utf8)
    #expect(symbols.output == expected)
    let header = try String(
      contentsOf: Self.root.appending(path: "Sources/CRWKVABI/include/rwkv.h"), encoding: .utf8)
    for symbol in expected.split(separator: "\n") { #expect(header.contains("\(symbol)("), "\(symbol)") }
    let soname = try Self.shell("readelf -d \(place.path)/librwkv.so | grep SONAME")
    #expect(soname.output.contains("[librwkv.so.0]"))
  }

  @Test func everyFunctionWorksFromC() throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "every_function.c", to: "every_function")
    let output = try place.output()
    try place.run("every_function \(place.arguments) \(output)")
    try Self.sameLogits(place, output + "/logits")
  }

  /// What was opened and taken is given back, also after mistakes.
  @Test func descriptorsAndMemoryStayLevel() throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "levels.c", to: "levels")
    try place.run("levels \(place.arguments) \(place.output())")
  }

  /// A program can tell what is wrong with a file without reading the text.
  @Test func filesThatCannotBeOpenedHaveFlagsOfTheirOwn() throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "errors.c", to: "errors")
    let model = try Data(contentsOf: URL(filePath: place.path + "/model.rwkv"))
    let other = try Model(path: place.path + "/other.rwkv", threads: 1)
    let state = Data(try Model(path: place.path + "/model.rwkv", threads: 1).newState().encoded())
    let output = try place.output()
    var cases: [(argument: String, flags: Int32)] = []
    func add(_ kind: String, _ data: Data, _ what: Int32, _ change: (inout Data) -> Void) throws {
      var data = data
      change(&data)
      let path = output + "/error-\(cases.count)"
      try data.write(to: URL(filePath: path))
      cases.append((kind + path, 2 << 8 | what))
    }
    for (kind, sound) in [("", model), ("state:", state)] {
      cases.append((kind + place.path + "/missing", 2 << 8 | 2))
      // What is no model of ours may be a checkpoint, of a kind that is not run.
      cases.append((kind + place.path, 2 << 8 | (kind.isEmpty ? 2 : 3)))
      try add(kind, sound, kind.isEmpty ? 9 : 6) { $0[0] ^= 1 }
      try add(kind, sound, 7) { $0[8] = 2 }
      try add(kind, sound, 13) { $0.removeLast() }
      try add(kind, sound, 13) { $0[$0.count - 1] ^= 1 }
      try add(kind, sound, 13) { $0[50] ^= 1 }
    }
    try add("state:", Data(other.newState().encoded()), 12) { _ in }
    cases.append(("quantize:" + place.path + "/missing", 2 << 8 | 2))
    try add("quantize:", Data("no checkpoint".utf8), 9) { _ in }
    try add("quantize:", Data(contentsOf: URL(filePath: place.checkpoint("v7-std/model.safetensors"))), 13) {
      $0.removeLast()
    }
    try add("quantize:", model, 13) { $0[50] ^= 1 }
    let command = "LD_LIBRARY_PATH=\(place.path) \(place.path)/errors \(place.path)/model.rwkv "
    let result = try Self.shell(command + cases.map(\.argument).joined(separator: " "))
    #expect(result.status == 0)
    let found = result.output.split(separator: "\n").map { Int32($0) }
    try #require(found.count == cases.count)
    for (flags, expected) in zip(found, cases) { #expect(flags == expected.flags, "\(expected.argument)") }
  }

  @Test func everyFunctionWorksFromCPlusPlus() throws {
    let place = try Workplace.shared.get()
    try place.compile("c++ -std=c++11 -x c++", "every_function.c", to: "every_function_cpp")
    try place.run("every_function_cpp \(place.arguments) \(place.output())")
  }

  @Test(arguments: ["generation", "scheduler"])
  func textsAreWrittenFromCAndCPlusPlus(_ program: String) throws {
    let place = try Workplace.shared.get()
    let models = ["model", "other"].prefix(program == "scheduler" ? 2 : 1).map { "\(place.path)/\($0).rwkv" }
    for compiler in ["cc -std=c99", "c++ -std=c++11 -x c++"] {
      try place.compile(compiler, "\(program).c", to: program)
      try place.run("\(program) \(models.joined(separator: " "))")
    }
  }

  @Test func wholeTextsWorkFromCAndCPlusPlus() throws {
    let place = try Workplace.shared.get()
    let output = try place.output()
    for (compiler, program) in [("cc -std=c99", "texts"), ("c++ -std=c++11 -x c++", "texts_cpp")] {
      try place.compile(compiler, "texts.c", to: program)
      try Self.require(
        "RWKV_PRINT_ERRORS=1 LD_LIBRARY_PATH=\(place.path) \(place.path)/\(program) \(place.path)/model.rwkv "
          + "\(place.path)/other.rwkv \(output)")
    }
    let session = try Session(Model(path: place.path + "/model.rwkv", threads: 1), threads: 1)
    let vector = try session.embedding("hello world".utf8.map { Int($0) })
    let written = try Data(contentsOf: URL(filePath: output + "/vector"))
    #expect(written == vector.withUnsafeBytes { Data($0) })
  }

  /// The scores are those of Swift.
  @Test func embeddingModelsAndRerankersWorkFromCAndCPlusPlus() throws {
    let place = try Workplace.shared.get()
    for (compiler, program) in [("cc -std=c99", "embedding"), ("c++ -std=c++11 -x c++", "embedding_cpp")] {
      try place.compile(compiler, "embedding.c", to: program)
      let result = try Self.shell(
        "LD_LIBRARY_PATH=\(place.path) \(place.path)/\(program) \(Self.embeddingModels(place))")
      #expect(result.status == 0, "\(result.output)")
      #expect(try result.output == Self.scoresInSwift(place))
    }
  }

  static func embeddingModels(_ place: Workplace) -> String {
    ["embedder", "reranker", "model", "growing"].map { "\(place.path)/\($0).rwkv" }.joined(separator: " ")
  }

  /// Of the documents in the programs named `embedding`.
  static func scoresInSwift(_ place: Workplace) throws -> String {
    let reader = try DocumentReader(Model(path: place.path + "/embedder.rwkv", threads: 1), threads: 1)
    let reranker = try Reranker(reader, Model(path: place.path + "/reranker.rwkv", threads: 1), threads: 1)
    let documents = ["bees dance", "", "concrete hardens"].map { Array($0.utf8) }
    let scores = try reranker.scores(query: Array("food?".utf8), texts: documents)
    return scores.map { String(format: "%.9g\n", $0) }.joined()
  }

  /// For programs that say "see standard error": the text of the error is there, where the environment asks for it.
  @Test(arguments: [("1", true), ("0", false), ("", false)])
  func errorsArePrintedWhereTheEnvironmentAsksForIt(_ value: String, _ prints: Bool) throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "opens.c", to: "opens\(value)")
    let result = try Self.shell(
      "RWKV_PRINT_ERRORS=\(value) LD_LIBRARY_PATH=\(place.path) \(place.path)/opens\(value) /nonexistent/model"
    )
    #expect(result.status == 1)
    #expect(result.output == (prints ? "rwkv: /nonexistent/model: No such file or directory\n" : ""))
  }

  @Test func anInstalledLibraryIsFoundByPkgConfigAndCMake() throws {
    let place = try Workplace.shared.get()
    let prefix = place.path + "/moved"
    try Self.require(
      "tools/steps/install-library.sh \(place.path)/librwkv.so \(prefix).at && rm -rf \(prefix) && mv \(prefix).at \(prefix)"
    )
    let version = try Self.shell("PKG_CONFIG_PATH=\(prefix)/lib/pkgconfig pkg-config --modversion rwkv")
      .output
    #expect(version == "\(RWKV_VERSION_MAJOR).\(RWKV_VERSION_MINOR).\(RWKV_VERSION_PATCH)\n")
    guard try Self.shell("command -v cmake").status == 0 else { return }
    let project = """
      cmake_minimum_required(VERSION 3.13)
      project(opens C)
      find_package(rwkv \(version.trimmingCharacters(in: .whitespacesAndNewlines)) REQUIRED)
      add_executable(opens \(Self.programs)/opens.c)
      target_link_libraries(opens rwkv::rwkv)
      """
    try FileManager.default.createDirectory(atPath: prefix + "/project", withIntermediateDirectories: true)
    try project.write(toFile: prefix + "/project/CMakeLists.txt", atomically: true, encoding: .utf8)
    let built = prefix + "/project/build"
    try Self.require(
      "cmake -S \(prefix)/project -B \(built) -DCMAKE_PREFIX_PATH=\(prefix) && cmake --build \(built)")
    try Self.require("\(built)/opens \(place.path)/model.rwkv")
  }

  /// What a program wrote after reading "hello world" equals what Swift computes, bit for bit.
  static func sameLogits(_ place: Workplace, _ path: String) throws {
    let model = try Model(path: place.path + "/model.rwkv", threads: 1)
    let session = try Session(model, threads: 1)
    try session.prefill("hello world".utf8.map { Int($0) })
    let written = try Data(contentsOf: URL(filePath: path))
    #expect(written == session.logits.withMemoryRebound(to: UInt8.self) { Data($0) })
  }

  /// Models in rwkv.cpp's own format, which are not part of this repository.
  static let tinyModels = root.appending(path: "../shared/tiny-rwkv").standardized.path

  @Test(.enabled("needs ../shared/tiny-rwkv") { FileManager.default.fileExists(atPath: tinyModels) })
  func rwkvCppModelsGiveTheirPublishedLogits() throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "published_logits.c", to: "published_logits")
    for name in ["4v0-660K", "5v2-730K", "7v0-834K"] {
      try place.run(
        "published_logits \(Self.tinyModels)/tiny-rwkv-\(name)-FP32.bin \(Self.tinyModels)/expected-logits-\(name).bin"
      )
    }
  }

  @Test func examplesInCBuildAndRun() throws {
    let place = try Workplace.shared.get()
    try Self.require("tools/steps/install-library.sh \(place.path)/librwkv.so \(place.path)/installed")
    for (name, arguments) in [
      ("embed", "model.rwkv 'hello world' 20"), ("batch", "hybrid.rwkv 9 hello world again"),
    ] {
      let make = "make -C examples/c-\(name) -s --always-make"
      try Self.require("CFLAGS=-Werror PKG_CONFIG_PATH=\(place.path)/installed/lib/pkgconfig \(make)")
      defer { _ = try? Self.shell("make -C examples/c-\(name) -s clean") }
      try Self.require("examples/c-\(name)/\(name) \(place.path)/\(arguments)")
      let wrong = try Self.shell("examples/c-\(name)/\(name) /nonexistent 1 x")
      #expect(wrong.status == 1 && wrong.output.contains("No such file"))
    }
  }

  /// The package has the products that the example's manifest asks for; its code needs nothing but what is public, and
  /// is compiled against the modules of these tests instead of building the whole package once more.
  @Test func exampleInSwiftBuildsAndRuns() throws {
    let place = try Workplace.shared.get()
    let (example, built) = ("examples/swift-embed", Workplace.builtFolder)
    try Self.require(
      "swift package --package-path \(example) --scratch-path .build/swift-embed show-dependencies")
    let modules = ["Sources/CZstd", "\(built)/CRWKVKernels.build"].map {
      "-Xcc -fmodule-map-file=\($0)/module.modulemap"
    }
    let objects = ["RWKV", "RWKVFormat", "RWKVTokenizer", "CRWKVKernels"].map { "\(built)/\($0).build/*.o" }
    try Self.require(
      "swiftc -parse-as-library -swift-version 6 -I \(built)/Modules \(modules.joined(separator: " ")) "
        + "\(example)/Sources/embed/*.swift \(objects.joined(separator: " ")) -o \(place.path)/embed-swift")
    try Self.require("\(place.path)/embed-swift \(place.path)/model.rwkv 'hello world' 20")
  }

  @Test func eightThreadsWithTheirOwnContextsEqualOne() throws {
    let place = try Workplace.shared.get()
    try place.compile("cc -std=c99", "threads.c", to: "threads")
    for model in ["model", "other"] { try place.run("threads \(place.path)/\(model).rwkv") }
  }
}
