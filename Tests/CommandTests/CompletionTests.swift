// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// What the Tab key offers in a shell, for the files that tools/steps/completions.py writes.
@Suite("Completions")
struct CompletionTests {
  private let folder = TemporaryFolder()

  init() throws {
    for name in ["model.rwkv", "text.txt", "old.pth"] {
      try Data().write(to: URL(filePath: folder.file(name)))
    }
    try FileManager.default.createDirectory(
      atPath: folder.file("models"), withIntermediateDirectories: false)
    for name in ["tiny", "two words", "$(touch made)"] {
      try Data().write(to: URL(filePath: folder.file("models/\(name).rwkv")))
    }
  }

  static let cases: [(words: [String], offered: [String], not: [String])] = [
    (["rwkv-run", "ch"], ["chat"], ["bench"]), (["rwkv-run", ""], ["chat", "model.rwkv"], ["text.txt"]),
    (["rwkv-run", "mod"], ["model.rwkv"], ["chat"]), (["rwkv-run", "chat", "mod"], ["model.rwkv"], []),
    (["rwkv-run", "model.rwkv", "--te"], ["--temp"], ["--template"]),
    (["rwkv-run", "chat", "model.rwkv", "--te"], ["--temp", "--template"], []),
    (["rwkv-run", "model.rwkv", "-f", ""], ["text.txt"], ["chat"]),
    (["rwkv-run", "embed", "model.rwkv", "--pooling", ""], ["mean", "last", "state"], ["chat"]),
    (["rwkv-run", "rm", "t"], ["tiny", "two words"], ["text.txt"]),
    (["rwkv-run", "rm", ""], ["tiny", "$(touch made)"], ["text.txt", "model.rwkv"]),
    (["rwkv-run", "chat", ""], ["model.rwkv", "tiny", "two words"], ["text.txt"]),
    (["rwkv-run", "t"], ["tokenize", "tiny"], ["text.txt"]),
    (["rwkv-quantize", "ol"], ["old.pth"], ["show"]), (["rwkv-quantize", "sh"], ["show"], ["old.pth"]),
    (["rwkv-quantize", "old.pth", "model.rwkv", "--type", "int"], ["int4", "int8"], ["fp16"]),
  ]

  /// The lines that a shell prints for a program's completions, after `definitions` has been read.
  private func offers(_ shell: String, _ words: [String], _ script: (String) -> String) throws -> [String] {
    let definitions = folder.file("definitions")
    let tool = Tool(name: words[0])
    let writing = try Running(
      "/bin/sh",
      [
        "-c",
        "python3 '\(packageRoot)/tools/steps/completions.py' '\(tool.path)' \(shell) > '\(definitions)'",
      ])
    #expect(try writing.wait().status == 0)
    // What is on this machine is asked of the program itself.
    let programs = (tool.path as NSString).deletingLastPathComponent
    let result = try Running(
      "/usr/bin/env",
      ["RWKV_MODELS=\(folder.file("models"))", "PATH=\(programs):/usr/bin:/bin", shell, "-c"]
        + ["cd '\(folder.path)'\nsource '\(definitions)'\n" + script(words[0])] + words
    ).wait()
    #expect(result.status == 0, "\(result.errors)")
    #expect(!folder.contents.contains("made"))
    return result.output.split(separator: "\n").map { String($0.prefix { $0 != "\t" }) }
  }

  private func check(_ offered: [String], _ item: (words: [String], offered: [String], not: [String])) {
    #expect(
      Set(offered).isSuperset(of: item.offered) && Set(offered).isDisjoint(with: item.not), "\(offered)")
  }

  @Test(arguments: cases)
  func bashOffers(_ item: (words: [String], offered: [String], not: [String])) throws {
    // As the shell does it: the words, and the function that `complete` named.
    let offered = try offers("bash", item.words) { name in
      """
      COMP_WORDS=("$0" "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
      _\(name) \(name) "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD - 1]}"
      printf '%s\\n' "${COMPREPLY[@]}"
      """
    }
    check(offered, item)
  }

  /// Only at a terminal does fish tell a program what is being typed.
  @Test(
    .enabled(if: isInstalled("fish")),
    arguments: cases.filter { !$0.offered.contains { $0.hasPrefix("t") && $0 != "text.txt" } })
  func fishOffers(_ item: (words: [String], offered: [String], not: [String])) throws {
    check(try offers("fish", item.words) { _ in "complete -C \"$argv\"" }, item)
  }

  /// What Tab makes of a line in a shell that shows every line before it runs it.
  @Test(
    arguments: [
      (
        "zsh", "-f",
        "autoload -U compinit; compinit -u -d dump; PS1='rea''dy> '; preexec() { print -r -- \"<$1>\" }"
      ),
      (
        "fish", "--no-config",
        "function fish_prompt; echo 'rea''dy> '; end; function shown --on-event fish_preexec; echo \"<$argv>\"; end"
      ),
    ].filter { isInstalled($0.0) })
  func tabCompletes(_ shell: (name: String, option: String, start: String)) throws {
    let tool = Tool(name: "rwkv-run")
    let programs = (tool.path as NSString).deletingLastPathComponent
    let writing = "completions.py' '\(tool.path)' \(shell.name) > '\(folder.file("_rwkv-run"))'"
    #expect(
      try Running("/bin/sh", ["-c", "python3 '\(packageRoot)/tools/steps/\(writing)"]).wait().status == 0)
    let terminal = try PseudoTerminal(
      path: "/usr/bin/\(shell.name)", [shell.option],
      environment: [
        "HOME": folder.path, "RWKV_MODELS": folder.file("models"), "PATH": "\(programs):/usr/bin:/bin",
      ], showsOutput: true)
    terminal.type("cd '\(folder.path)'\n")
    let reading = shell.name == "zsh" ? "fpath=(\"$PWD\" $fpath)" : "source _rwkv-run"
    terminal.type("\(reading); \(shell.start)\n")
    for (typed, meant) in [
      ("ch", "chat"), ("chat --templ", "chat --template"), ("rm ti", "rm tiny"), ("chat ti", "chat tiny"),
      ("two", "two\\ words"), ("model.", "model.rwkv"), ("chat --draft ti", "chat --draft tiny"),
    ] {
      // What is typed before is not the shell's to complete.
      terminal.expect("ready> ")
      terminal.type("rwkv-run \(typed)\t--version\n")
      terminal.expect("<rwkv-run \(meant) --version>")
    }
    terminal.type("exit\n")
    _ = terminal.wait()
  }

  private static func isInstalled(_ shell: String) -> Bool {
    FileManager.default.isExecutableFile(atPath: "/usr/bin/" + shell)
  }

  /// The page of tools/steps/manual.py: every command, its options and their defaults, and nothing that roff
  /// complains about.
  @Test(arguments: ["rwkv-run", "rwkv-quantize"])
  func theManualHasAllOptions(_ name: String) throws {
    let path = Tool(name: name).path
    let page = try Running("/usr/bin/env", ["python3", packageRoot + "/tools/steps/manual.py", path]).wait()
    #expect(page.status == 0, "\(page.errors)")
    let text = page.output.replacingOccurrences(of: "\\-", with: "-")
    for argument in ValueArgument.all where argument.tool == name && argument.role != .value {
      #expect(text.contains(argument.name), "\(argument.testDescription)")
      #expect(text.contains(".SS " + argument.command.joined(separator: " ")))
    }
    let wanted =
      name == "rwkv-run"
      ? ["(default: 256)", "bench", "state show", "tuesday.state"] : ["convert (default)", "verify"]
    for words in wanted { #expect(text.contains(words), "\(words)") }
    #expect(
      !text.split(separator: "\n").contains {
        $0.hasPrefix(".") && $0.dropFirst().first?.isUppercase != true
          && !$0.hasPrefix(".fi") && !$0.hasPrefix(".nf") && !$0.hasPrefix(".br")
      })
  }
}
