// SPDX-License-Identifier: MIT
import Terminal

extension RWKVQuantize {
  /// What people type who come from llama.cpp's and rwkv.cpp's programs: docs/coming-from.md.
  static var foreign: ForeignArguments {
    ForeignArguments(
      RWKVQuantize.self,
      flags: [
        ForeignFlag("-m --model --outfile", .argument),
        ForeignFlag("--outtype --ftype", .says(["--type"])),
        ForeignFlag("--allow-requantize", .says(["--allow-quantized"])),
        ForeignFlag("-f --file", .says(["--text"]), only: ["compare"]),
        ForeignFlag(
          "--imatrix", .answered("what matters is measured on a text: --calibrate TEXT, or --calibrate auto.")
        ),
        ForeignFlag(
          "--pure --leave-output-tensor --output-tensor-type --token-embedding-type --tensor-type",
          .answered(
            "formats of single tensors are written into a file: --recipe FILE (docs/choosing-a-type.md).")
        ),
        ForeignFlag("--keep-split --vocab-only", .answered("a model is one file, with its tokenizer.")),
      ],
      commands: [
        "info": .says(["show"]), "inspect": .says(["show"]), "check": .says(["verify"]),
        "quantize": .says(["convert"]),
        "run": .answered("type rwkv-run MODEL -p TEXT, or rwkv-run chat MODEL."),
        "chat": .answered("type rwkv-run chat MODEL."),
      ],
      texts: [])
  }
}
