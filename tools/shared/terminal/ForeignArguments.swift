// SPDX-License-Identifier: MIT
package import ArgumentParser
internal import CArguments
import Glibc

/// A flag that people know from another program.
package struct ForeignFlag: Sendable {
  package enum Meaning: Sendable {
    /// These words say the same here; a value stays where it is.
    case says([String])
    /// The value is an argument that has no name here.
    case argument
    /// It would change nothing; the remark says why. How many words follow it.
    case needless(Values, String)
    /// Like `answered`, unless these values follow, with which it does nothing.
    case neutral([String], answer: String)
    /// It asks for something else; the answer says what to type.
    case answered(String)
  }

  package enum Values: Sendable {
    case none, one
    /// "on", "off", "auto", 0 or 1, if one of them follows.
    case `switch`
  }

  let names: [String]
  let meaning: Meaning
  /// Commands for which it means this; empty: all. "" is a call without the name of a command.
  let commands: Set<String>
  /// Commands that have a flag of this name of their own, or another meaning for it.
  let except: Set<String>

  package init(
    _ names: String, _ meaning: Meaning, only commands: Set<String> = [], except: Set<String> = []
  ) {
    self.names = names.split(separator: " ").map(String.init)
    self.meaning = meaning
    self.commands = commands
    self.except = except
  }

  fileprivate func isMeant(by name: String, of command: String) -> Bool {
    names.contains(name) && (commands.isEmpty || commands.contains(command)) && !except.contains(command)
  }
}

/// What a program understands beside its own arguments.
package struct ForeignArguments {
  let tool: String
  /// Names of its commands.
  let commands: [String]
  let flags: [ForeignFlag]
  /// Names of other programs' commands: what to type, or the command that is the same.
  let commandNames: [String: ForeignFlag.Meaning]
  /// Its own options that are followed by any text, which may look like a flag.
  let texts: Set<String>

  package init(
    _ root: any ParsableCommand.Type, flags: [ForeignFlag], commands: [String: ForeignFlag.Meaning],
    texts: Set<String>
  ) {
    tool = root._commandName
    self.commands = root.configuration.subcommands.map { $0._commandName }
    self.flags = flags
    commandNames = commands
    self.texts = texts
  }

  /// The program's arguments, in its own words. Remarks go to stderr.
  /// - Throws: `ValidationError` where something else must be typed.
  package func translated() throws -> [String] {
    var arguments: [String] = []
    var index: Int32 = 1
    while let argument = program_argument(index) {
      defer { index += 1 }
      guard let text = String(validatingCString: argument) else {
        throw ValidationError(
          "Argument \(index), '\(String(cString: argument))', is not UTF-8, as texts and names of files must be. "
            + "A link with another name helps: ln -s FILE model.rwkv")
      }
      arguments.append(text)
    }
    return try translated(arguments)
  }

  package func translated(_ arguments: [String]) throws -> [String] {
    var rest = arguments[...]
    var result: [String] = []
    var command = ""
    if let first = rest.first {
      switch commandNames[first] {
      case .answered(let answer) where access(first, F_OK) != 0:
        throw ValidationError("There is no command '\(first)': \(answer)")
      case .says(let words):
        rest.removeFirst()
        rest = words + rest
      default: break
      }
      if let first = rest.first, commands.contains(first) { command = first }
    }
    while let word = rest.popFirst() {
      if word == "--" {
        result += [word] + rest
        break
      }
      // llama.cpp writes --top_p as well.
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let isLong = word.hasPrefix("--")
      let name = isLong ? String(parts[0]).replacing("_", with: "-") : word
      let value = isLong && parts.count == 2 ? String(parts[1]) : nil
      let own = value.map { "\(name)=\($0)" } ?? name
      guard word.hasPrefix("-"), let flag = flags.first(where: { $0.isMeant(by: name, of: command) }) else {
        result.append(isLong ? own : word)
        // What follows it stays as it is.
        if texts.contains(name), value == nil, let text = rest.popFirst() { result.append(text) }
        continue
      }
      if let value { rest.insert(value, at: rest.startIndex) }
      try translate(flag.meaning, name, &rest, &result)
    }
    return result
  }

  private func translate(
    _ meaning: ForeignFlag.Meaning, _ name: String, _ rest: inout ArraySlice<String>, _ result: inout [String]
  ) throws {
    switch meaning {
    case .says(let words):
      result += words
      if let last = words.last, texts.contains(last), let text = rest.popFirst() { result.append(text) }
    case .argument:
      guard let value = rest.popFirst() else { throw ValidationError("\(name) needs a value.") }
      result.append(value)
    case .needless(let values, let remark):
      switch values {
      case .none: break
      case .one: _ = rest.popFirst()
      case .switch:
        let isSwitch = rest.first.map { ["on", "off", "auto", "0", "1", "0,1"].contains($0) } ?? false
        if isSwitch { rest.removeFirst() }
      }
      note("\(tool): \(name) changes nothing: \(remark)")
    case .neutral(let values, let answer):
      guard let value = rest.popFirst(), values.contains(value) else {
        throw ValidationError("\(name): \(answer)")
      }
    case .answered(let answer): throw ValidationError("\(name): \(answer)")
    }
  }
}

extension ParsableCommand {
  /// Runs the program with arguments that may be another program's.
  package static func main(with foreign: ForeignArguments) {
    do { main(try foreign.translated()) } catch { exit(withError: error) }
  }
}
