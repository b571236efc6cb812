// swift-tools-version: 6.2
// SPDX-License-Identifier: MIT
// The server is a package of its own: whoever builds the library or the two commands fetches none of its dependencies.
import PackageDescription

let package = Package(
  name: "rwkv-serve",
  products: [.executable(name: "rwkv-serve", targets: ["rwkv-serve"])],
  dependencies: [
    .package(name: "rwkv", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.80.0"),
    .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.20.0"),
  ],
  targets: [
    // A link to the commands' own code; names of targets are unique across packages.
    .target(name: "CServeArguments"),
    .executableTarget(
      name: "rwkv-serve",
      dependencies: [
        "CServeArguments",
        .product(name: "RWKV", package: "rwkv"), .product(name: "RWKVChat", package: "rwkv"),
        .product(name: "RWKVCheckpoint", package: "rwkv"), .product(name: "RWKVTokenizer", package: "rwkv"),
        .product(name: "Hummingbird", package: "hummingbird"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "Sources/RWKVServe", resources: [.embedInCode("page.html"), .embedInCode("openapi.json")],
      swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny")])
  ])
