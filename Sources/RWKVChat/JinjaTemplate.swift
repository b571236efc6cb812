// SPDX-License-Identifier: MIT

extension ChatTemplate {
  /// The template in Jinja, which writes what `text(of:)` does with the first way of thinking: for programs that know
  /// no other templates.
  public var jinja: String {
    let content = cleans ? "clean(message.content)" : "message.content"
    let way = thinking.first
    var lines = [
      "{%- macro clean(text) -%}{{ text.replace('\\r', '').split('\\n') | select | join('\\n') | trim }}"
        + "{%- endmacro -%}"
    ]
    let instructions =
      system.map { pattern in
        let text = "\(Self.quoted(pattern.before)) ~ \(content) ~ \(Self.quoted(pattern.after))"
        return "{%- if \(content) -%}{{ \(text) }}{%- endif -%}"
      } ?? "{{- raise_exception('this template has no place for a system message') -}}"
    let continued =
      "\(Self.quoted(assistant)) \(separator("message.content", "message.content[0].strip()"))"
    lines += [
      "{%- if messages[0].role == 'system' -%}{%- set message = messages[0] -%}\(instructions){%- endif -%}",
      "{{- \(Self.quoted(greeting)) -}}",
      "{%- for message in messages -%}",
      "{%- if message.role == 'system' -%}{%- if not loop.first -%}\(instructions){%- endif -%}",
      "{%- elif message.role == 'assistant' and loop.last -%}",
      "{%- if message.content -%}{{ \(continued) ~ message.content }}{%- endif -%}",
      "{%- elif message.role == 'assistant' -%}",
      "{{- \(Self.quoted(assistant)) \(separator(content, "true")) ~ \(content) ~ \(Self.quoted(end)) -}}",
      "{%- else -%}",
      turn(tool ?? user, content, "", when: "message.role == 'tool'"),
      turn(user, content, way?.message ?? "", when: "message.role == 'user'"),
      "{%- endif -%}",
      "{%- endfor -%}",
      "{%- if add_generation_prompt and (messages[-1].role != 'assistant' or not messages[-1].content) -%}",
      "{{ \(Self.quoted(assistant + (way?.answer ?? ""))) }}{%- endif -%}",
    ]
    return lines.joined(separator: "\n")
  }

  /// The space between a colon and an answer that has none.
  private func separator(_ content: String, _ condition: String) -> String {
    assistant.last == ":" ? "~ (' ' if \(content) and \(condition) else '')" : ""
  }

  private func turn(_ pattern: Pattern, _ content: String, _ last: String, when condition: String) -> String {
    let addition = last.isEmpty ? "" : " ~ (\(Self.quoted(last)) if loop.last else '')"
    return "{%- if \(condition) -%}{{ \(Self.quoted(pattern.before)) ~ \(content)\(addition) ~ "
      + "\(Self.quoted(pattern.after)) }}{%- endif -%}"
  }

  private static func quoted(_ text: String) -> String {
    var result = "'"
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      case "'", "\\": result += "\\\(scalar)"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "'"
  }
}
