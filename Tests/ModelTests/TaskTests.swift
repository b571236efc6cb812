// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVQuantization
import Testing

/// Whole answers: a trained model that adds, multiplies, sorts and runs a stack machine by written steps
/// (examples/tasks, tools/train/tasks.py). One wrong byte is a wrong answer.
@Suite("Tasks")
struct TaskTests {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../../examples/tasks").standardized

  private struct Problem: Decodable {
    let task: String
    let prompt: String
    let answer: String
  }

  /// Held-out problems that the exact weights solve.
  private func problems() throws -> [Problem] {
    try String(contentsOf: Self.folder.appending(path: "problems.jsonl"), encoding: .utf8)
      .split(separator: "\n").map { try JSONDecoder().decode(Problem.self, from: Data($0.utf8)) }
  }

  private func model(_ type: QuantizationType, calibrated: Bool) throws -> Model {
    let text = try Data(contentsOf: Self.folder.appending(path: "calibration.txt"))
    let path = try TemporaryFiles.shared.path(for: "tasks-\(type)-\(calibrated)") { path in
      var options = ConversionOptions()
      options.type = type
      options.tokenizer = .bytes
      if calibrated { options.calibration = .bytes(Array(text)) }
      _ = try Conversion.convert(
        Self.folder.appending(path: "rwkv7-tasks.safetensors").path, to: path, options)
    }
    return try Model(path: path, threads: 2)
  }

  /// The first choice after each byte, up to byte 0, which ends a text, or `limit` bytes.
  private func write(_ session: Session, after prompt: String, limit: Int) throws -> String {
    try session.prefill(prompt.utf8.map(Int.init))
    var answer: [UInt8] = []
    while answer.count < limit {
      let byte = session.logits.indices.max { session.logits[$0] < session.logits[$1] } ?? 0
      if byte == 0 { break }
      answer.append(UInt8(byte))
      try session.decode(byte)
    }
    return String(decoding: answer, as: UTF8.self)
  }

  @Test(arguments: [(QuantizationType.fp16, false), (.int4, true)]) func answersAreRight(
    type: QuantizationType, calibrated: Bool
  ) throws {
    let model = try model(type, calibrated: calibrated)
    let problems = try problems()
    #expect(Set(problems.map(\.task)) == ["add", "times", "sort", "stack"])
    for problem in problems {
      let written = try write(
        Session(model, threads: 2), after: problem.prompt, limit: problem.answer.count + 20)
      #expect(written == problem.answer, "\(problem.task): \(problem.prompt)")
    }
  }
}
