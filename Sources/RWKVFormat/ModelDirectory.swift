// SPDX-License-Identifier: MIT
import Glibc

/// The folder of the models that are known by name: a model is the file `NAME.rwkv` in it.
public enum ModelDirectory {
  /// The folder: `RWKV_MODELS`, or `rwkv` in `XDG_DATA_HOME`, which is `~/.local/share` where it is not set.
  public static var path: String {
    if let own = variable("RWKV_MODELS") { return own }
    return (variable("XDG_DATA_HOME") ?? (variable("HOME") ?? "") + "/.local/share") + "/rwkv"
  }

  /// The names of the models in the folder, sorted.
  public static var names: [String] {
    contents(ofFolder: path).filter { $0.hasSuffix(ending) && isName($0) }.map {
      String($0.dropLast(ending.utf8.count))
    }
  }

  /// The file of the model `name`, whether there is one or not.
  public static func file(named name: String) -> String { path + "/" + name + ending }

  /// The path of a model that is given by its path or its name; a file under the path is what is meant.
  public static func resolve(_ model: String) -> String {
    let file = file(named: model)
    var status = stat()
    let isPath = stat(model, &status) == 0 && status.st_mode & S_IFMT != S_IFDIR
    return isName(model) && !isPath && access(file, F_OK) == 0 ? file : model
  }

  /// Whether a model can have this name.
  public static func isName(_ text: String) -> Bool {
    !text.isEmpty && !text.hasPrefix(".") && !text.hasPrefix("-") && text.utf8.count <= 200
      && !text.utf8.contains { $0 < 0x20 || $0 == 0x7F || $0 == UInt8(ascii: "/") }
  }

  private static let ending = ".rwkv"

  private static func variable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
  }
}
