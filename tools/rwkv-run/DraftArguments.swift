// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat

/// Arguments of what writes with drafts.
struct DraftArguments: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Guess the next tokens and read them in one pass; the text stays the same. ngram: what followed the last tokens "
        + "before; or a smaller model with the same tokenizer.", valueName: "ngram|model.rwkv"),
    completion: .file(extensions: ["rwkv"]))
  var draft: String?

  @Option(
    help: """
      Tokens to guess at most, 1…\(Drafts.mostTokens) (default: \(Drafts.limitByDefault); fewer, or none, where \
      guesses are wrong).
      """)
  var draftMax: Int?

  func validate() throws {
    guard let draftMax else { return }
    if draft == nil { throw ValidationError("--draft-max goes with --draft.") }
    guard (1...Drafts.mostTokens).contains(draftMax) else {
      throw ValidationError("--draft-max must be 1…\(Drafts.mostTokens).")
    }
  }

  /// Drafts for a text of `model`, if they are wanted.
  func drafts(for model: Model, threads: Int) throws -> Drafts? {
    guard let draft else { return nil }
    let limit = draftMax ?? Drafts.limitByDefault
    guard draft != "ngram" else { return Drafts(RepetitionDrafter(), limit: limit) }
    let path = ModelDirectory.resolve(draft)
    try checkModelPath(path)
    let smaller = try Model(path: path, threads: threads, kinds: [.language], requiresTokenizer: true)
    return Drafts(try ModelDrafter(smaller, for: model, threads: threads), limit: limit)
  }
}
