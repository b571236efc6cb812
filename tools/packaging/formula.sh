#!/bin/sh
# SPDX-License-Identifier: MIT
# Writes a Homebrew formula (for Linux) that builds from source, to standard output:
#   tools/packaging/formula.sh VERSION ARCHIVE     the archive of the sources, found below RWKV_RELEASES, a URL
set -eu
cat <<RB
class Rwkv < Formula
  desc "Runs RWKV language models on the CPU"
  homepage "${RWKV_RELEASES:-https://example.org/rwkv}"
  url "${RWKV_RELEASES:-https://example.org/rwkv}/$(basename "$2")"
  sha256 "$(sha256sum "$2" | cut -d' ' -f1)"
  license "MIT"
  version "$1"

  depends_on "pkgconf" => :build
  depends_on "swift" => :build
  depends_on "curl"
  depends_on :linux
  depends_on "zstd"

  def install
    system "tools/build.sh", "--no-serve", prefix
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/rwkv-run --version")
    assert_match "rwkv7-0.4b", shell_output("#{bin}/rwkv-run pull")
  end
end
RB
