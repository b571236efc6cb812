// SPDX-License-Identifier: MIT
import Terminal

extension RWKVRun {
  /// What people type who come from llama.cpp, rwkv.cpp or ollama: docs/coming-from.md.
  static var foreign: ForeignArguments {
    ForeignArguments(
      RWKVRun.self, flags: models + sampling + conversations + machine,
      commands: [
        "run": .answered("rwkv-run chat MODEL talks with a model, rwkv-run MODEL -p TEXT continues a text."),
        "serve": .answered("a server is a program of its own: rwkv-serve MODEL."),
        "server": .answered("a server is a program of its own: rwkv-serve MODEL."),
        "ls": .says(["list"]), "delete": .says(["rm"]),
        "create": .answered("rwkv-quantize CHECKPOINT model.rwkv makes a model's file."),
        "convert": .answered("that is a program of its own: rwkv-quantize CHECKPOINT model.rwkv."),
        "quantize": .answered("that is a program of its own: rwkv-quantize CHECKPOINT model.rwkv."),
        "show": .answered("rwkv-quantize show MODEL."), "info": .answered("rwkv-quantize show MODEL."),
        "embedding": .says(["embed"]), "completion": .says(["generate"]), "cli": .says(["generate"]),
      ],
      texts: ["-p", "--prompt", "--system", "--stop"])
  }

  private static let fetching = "rwkv-run pull hf:OWNER/REPO/FILE gets a model and keeps it under a name."
  private static let talking = "type rwkv-run chat MODEL for a conversation."
  private static let cpu = "all is computed on the CPU."
  private static let fixedState = "the state has a fixed size, and texts may be as long as you like."
  private static let cuts = "there are --temp, --top-p, --top-k and --min-p."

  private static let models = [
    ForeignFlag("-m --model", .argument, except: ["state"]),
    ForeignFlag("-hf -hfr --hf-repo -mu --model-url", .answered(fetching)),
    ForeignFlag(
      "--lora --lora-scaled",
      .answered(
        "adapters are merged when the model is made: rwkv-quantize CHECKPOINT model.rwkv --lora FILE.")),
    ForeignFlag(
      "--prompt-cache --prompt-cache-all --prompt-cache-ro",
      .answered("--save-state FILE keeps what was read, --load-state FILE goes on from there.")),
    ForeignFlag("--embd-normalize", .neutral(["2"], answer: "vectors have length 1."), only: ["embed"]),
    ForeignFlag("--embedding --embeddings", .answered("type rwkv-run embed MODEL -p TEXT.")),
    ForeignFlag("--perplexity", .answered("type rwkv-run perplexity MODEL -f TEXT.")),
  ]

  private static let sampling = [
    ForeignFlag("--temperature", .says(["--temp"])),
    ForeignFlag("--n-predict", .says(["--predict"]), except: ["bench"]),
    ForeignFlag("-r --reverse-prompt", .says(["--stop"]), only: ["", "generate"]),
    ForeignFlag(
      "-r --reverse-prompt", .answered("a template says where answers end: --template FILE."),
      only: ["chat"]),
    ForeignFlag("--ignore-eos", .says(["--logit-bias", "0=-inf"])),
    ForeignFlag(
      "--repeat-penalty --repetition-penalty",
      .neutral(
        ["1", "1.0"],
        answer:
          "it divides logits, which is not done here; --presence-penalty 0.5 and --frequency-penalty 0.1 take off from "
          + "those of tokens that were written, and --penalty-decay 0.99 forgets them.")),
    ForeignFlag("--repeat-last-n", .needless(.one, "--penalty-decay says how soon a token is forgotten.")),
    ForeignFlag(
      "--mirostat --mirostat-lr --mirostat-ent --typical --dynatemp-range --xtc-probability --xtc-threshold "
        + "--dry-multiplier --top-nsigma --samplers --sampling-seq --sampler-seq", .answered(cuts)),
    ForeignFlag(
      "--grammar --grammar-file -j --json-schema --json-schema-file",
      .answered("--only-json writes one JSON object or array; there are no other grammars.")),
  ]

  private static let conversations = [
    ForeignFlag("-sys --system-prompt", .says(["--system"]), only: ["chat"]),
    ForeignFlag("-sys --system-prompt --system", .answered(talking), only: ["", "generate"]),
    ForeignFlag("--chat-template --chat-template-file", .says(["--template"]), only: ["chat"]),
    ForeignFlag("--chat-template --chat-template-file", .answered(talking), only: ["", "generate"]),
    ForeignFlag(
      "-i --interactive -if --interactive-first -cnv --conversation -ins --instruct", .answered(talking),
      only: ["", "generate"]),
    ForeignFlag(
      "-i --interactive -if --interactive-first -cnv --conversation -ins --instruct",
      .needless(.none, "chat is a conversation."), only: ["chat"]),
    ForeignFlag(
      "-st --single-turn", .needless(.none, "with -p or -f a chat ends after one answer."),
      only: ["chat", "", "generate"]),
    ForeignFlag(
      "--jinja --no-jinja -sp --special", .needless(.none, "--template says how a chat is written."),
      only: ["chat"]),
    ForeignFlag(
      "--reasoning-budget --reasoning-format -rea --reasoning",
      .answered("type --think NAME: off, on, short, long, fake."), only: ["chat"]),
    ForeignFlag(
      "-no-cnv --no-conversation", .needless(.none, "a text is continued; talking is rwkv-run chat."),
      only: ["", "generate"]),
    ForeignFlag(
      "-no-cnv --no-conversation", .answered("type rwkv-run MODEL -p TEXT to continue a text."),
      only: ["chat"]),
    ForeignFlag(
      "-e --escape", .answered("texts are taken as they are; your shell writes line ends: -p $'one\\ntwo'."),
      except: ["bench"]),
    ForeignFlag("--no-escape", .needless(.none, "texts are taken as they are.")),
    ForeignFlag("-mli --multiline-input", .needless(.none, "several lines stand between two \"\"\".")),
  ]

  private static let machine = [
    ForeignFlag("-c --ctx-size -n-ctx --n-ctx --keep", .needless(.one, fixedState)),
    ForeignFlag("--context-shift --no-context-shift", .needless(.none, fixedState)),
    ForeignFlag(
      "-ngl --gpu-layers --n-gpu-layers -dev --device -sm --split-mode -mg --main-gpu -ts --tensor-split",
      .needless(.one, cpu)),
    ForeignFlag("-fa --flash-attn", .needless(.switch, "nothing here attends to all tokens.")),
    ForeignFlag(
      "-ctk --cache-type-k -ctv --cache-type-v", .needless(.one, "there is no cache of keys and values.")),
    ForeignFlag(
      "-b --batch-size -ub --ubatch-size -tb --threads-batch",
      .needless(.one, "prompts are read in blocks, with the threads of -t.")),
    ForeignFlag(
      "-mmp --prio --poll --delay -ncmoe --ppl-stride --chunks",
      .needless(.one, "it has no counterpart here.")),
    ForeignFlag(
      "--swa-full --offline --check-tensors -kvu --kv-unified",
      .needless(.none, "it has no counterpart here.")),
    ForeignFlag("--mlock --no-mmap --mmap", .needless(.none, "--memory-limit says what stays in memory.")),
    ForeignFlag("--numa -C --cpu-mask -Cr --cpu-range", .needless(.one, "numactl and taskset do this.")),
    ForeignFlag(
      "--log-disable --no-display-prompt --simple-io --no-warmup --no-perf --perf -co --color -v --verbose "
        + "--verbose-prompt", .needless(.none, "stdout gets the model's text alone.")),
  ]
}
