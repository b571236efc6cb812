// swift-tools-version: 6.2
// SPDX-License-Identifier: MIT
import PackageDescription

let swiftSettings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

// Kernels at -O0 would make the tests crawl, so debug builds optimise them too. They stop at an access beyond an array
// of their own, and where C leaves open what a number is.
let kernelSettings: [CSetting] = [
  .unsafeFlags(
    [
      "-O3", "-fsanitize=bounds,local-bounds,signed-integer-overflow,integer-divide-by-zero,shift",
      "-fsanitize-trap=all",
    ], .when(configuration: .debug)),
  // A weight format that a switch forgets does not compile.
  .unsafeFlags(["-Werror=switch"]),
]

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func tool(
  _ name: String, _ dependencies: [Target.Dependency], resources: [Resource]? = nil
) -> Target {
  .executableTarget(
    name: name,
    dependencies: dependencies + [.product(name: "ArgumentParser", package: "swift-argument-parser")],
    path: "tools/\(name)", resources: resources, swiftSettings: swiftSettings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

let package = Package(
  name: "rwkv",
  products: [
    .library(name: "RWKV", targets: ["RWKV"]),
    .library(name: "RWKVChat", targets: ["RWKVChat"]),
    .library(name: "RWKVTokenizer", targets: ["RWKVTokenizer"]),
    .library(name: "RWKVCheckpoint", targets: ["RWKVCheckpoint"]),
    .library(name: "RWKVQuantization", targets: ["RWKVQuantization"]),
    .library(name: "rwkv", type: .dynamic, targets: ["RWKVExports"]),
    .executable(name: "rwkv-run", targets: ["rwkv-run"]),
    .executable(name: "rwkv-quantize", targets: ["rwkv-quantize"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0")
  ],
  targets: [
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
    .target(name: "CRWKVKernels", cSettings: kernelSettings),

    library("RWKVTokenizer", []),
    library("RWKVFormat", ["CZstd"]),
    library("RWKVCheckpoint", ["RWKVFormat"]),
    library("RWKV", ["RWKVFormat", "RWKVTokenizer", "CRWKVKernels"]),
    library("RWKVChat", ["RWKV", "RWKVFormat", "RWKVTokenizer"]),
    library(
      "RWKVQuantization", ["RWKV", "RWKVFormat", "RWKVCheckpoint", "RWKVTokenizer", "CRWKVKernels"]),

    // The C interface: a header, and what is behind it. librwkv.so exports the header's functions and nothing else.
    .target(name: "CRWKVABI"),
    .target(name: "CRWKVHost"),
    .target(
      name: "RWKVExports",
      dependencies: [
        "CRWKVABI", "CRWKVHost", "RWKV", "RWKVChat", "RWKVQuantization", "RWKVCheckpoint", "RWKVFormat",
        "RWKVTokenizer",
      ],
      exclude: ["exports.map"], swiftSettings: swiftSettings,
      linkerSettings: [
        // With the linker that comes with Swift: gold, the default, lists Swift's symbols all the same.
        .unsafeFlags(
          [
            "-use-ld=lld", "-Xlinker",
            "--version-script=\(Context.packageDirectory)/Sources/RWKVExports/exports.map",
            "-Xlinker", "-soname=librwkv.so.0",
          ], .when(platforms: [.linux]))
      ]),

    .target(name: "CArguments", path: "tools/shared/arguments"),
    // What both tools need to talk to people.
    .target(
      name: "Terminal",
      dependencies: [
        "CRWKVABI", "CArguments", "RWKVFormat",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "tools/shared/terminal", swiftSettings: swiftSettings),
    tool(
      "rwkv-run",
      [
        "Remote", "Terminal", "CPeak", "RWKV", "RWKVChat", "RWKVCheckpoint", "RWKVFormat", "RWKVQuantization",
        "RWKVTokenizer",
      ], resources: [.embedInCode("models.txt")]),
    // Checkpoints that are read over HTTP; libcurl is looked for when they are.
    .systemLibrary(name: "CCurl", path: "tools/shared/curl"),
    .target(
      name: "Remote", dependencies: ["CCurl", "Terminal", "RWKVCheckpoint", "RWKVFormat"],
      path: "tools/shared/remote",
      swiftSettings: swiftSettings),
    tool(
      "rwkv-quantize",
      ["Remote", "Terminal", "RWKV", "RWKVQuantization", "RWKVFormat", "RWKVCheckpoint", "RWKVTokenizer"]),

    // What the machine can do at most.
    .target(name: "CPeak", path: "tools/shared/peak"),
    // For those who work on kernels.
    .executableTarget(
      name: "bench-kernels",
      dependencies: [
        "Terminal", "RWKVFormat", "CRWKVKernels", "CPeak",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "tools/bench-kernels", swiftSettings: swiftSettings),

    .testTarget(
      name: "KernelTests", dependencies: ["CRWKVKernels", "RWKVFormat"], exclude: ["Programs"],
      swiftSettings: swiftSettings),

    // What tools/fuzz/run.sh drives, and the tests replay.
    .target(
      name: "FuzzTargets",
      dependencies: [
        "Remote", "RWKV", "RWKVChat", "RWKVFormat", "RWKVQuantization", "RWKVCheckpoint", "RWKVTokenizer",
      ],
      path: "tools/fuzz/targets", swiftSettings: swiftSettings),
    tests("FuzzTests", ["FuzzTargets"]),

    tests("FormatTests", ["RWKVFormat", "CZstd"]),
    tests("CheckpointTests", ["RWKVCheckpoint", "RWKVFormat", "RWKVQuantization", "RWKV"]),
    tests("TokenizerTests", ["RWKVTokenizer", "RWKVCheckpoint"]),
    tests(
      "ModelTests", ["RWKV", "RWKVChat", "RWKVFormat", "RWKVQuantization", "RWKVCheckpoint", "RWKVTokenizer"]),
    tests(
      "QuantizationTests",
      ["RWKVQuantization", "RWKV", "RWKVFormat", "RWKVCheckpoint", "RWKVTokenizer", "CRWKVKernels"]),
    .testTarget(
      name: "CABITests", dependencies: ["CRWKVABI", "RWKV", "RWKVQuantization", "RWKVFormat"],
      exclude: ["Programs", "exported-symbols.txt", "requirements.txt"], swiftSettings: swiftSettings),
    .testTarget(
      name: "CommandTests", dependencies: ["rwkv-quantize", "rwkv-run", "Remote", "Terminal"],
      exclude: ["Programs"],
      swiftSettings: swiftSettings),
  ]
)

// libFuzzer brings its own main function, so this is built by tools/fuzz/run.sh alone.
if Context.environment["RWKV_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "rwkv-fuzz", dependencies: ["FuzzTargets"], path: "tools/fuzz/driver",
      swiftSettings: swiftSettings))
}

// Documentation of the libraries: RWKV_DOCS=1 swift package generate-documentation --target RWKV. Apart, so that those
// who build fetch nothing for it.
if Context.environment["RWKV_DOCS"] != nil {
  package.dependencies.append(.package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.4.0"))
}
