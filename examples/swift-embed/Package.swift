// swift-tools-version: 6.2
// SPDX-License-Identifier: MIT
import PackageDescription

let package = Package(
  name: "embed",
  dependencies: [.package(name: "rwkv", path: "../..")],
  targets: [.executableTarget(name: "embed", dependencies: [.product(name: "RWKV", package: "rwkv")])]
)
