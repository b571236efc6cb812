// SPDX-License-Identifier: MIT
import RWKVFormat

/// Writes a whole file, which appears when it is complete or leaves the old one (OutputFile.swift).
func write(_ bytes: [UInt8], to path: String) throws(ModelFileError) {
  do {
    let file = try OutputFile(path: path, overwrite: true, acceptsStreams: true)
    try file.write(bytes, at: 0)
    try file.finish()
  } catch {
    throw error.inFile(path)
  }
}
