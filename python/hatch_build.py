# SPDX-License-Identifier: MIT
"""Puts librwkv.so into the wheel, and says which systems it runs on.

The library is the one that RWKV_LIBRARY names, else what tools/build.sh makes: a statically linked one, which needs the
system's C and C++ libraries alone.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
# Libraries that PEP 600 expects everywhere.
EVERYWHERE = re.compile(r"(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux[-\w]*)\.so")


def version() -> str:
    """The version that rwkv.h has."""
    header = (HERE / "../Sources/CRWKVABI/include/rwkv.h").read_text()
    return ".".join(re.findall(r"#define RWKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))


def platform(library: str) -> str:
    """The platform tag: that of the oldest C library that has what the library needs."""

    def readelf(option: str) -> str:
        return subprocess.run(["readelf", option, library], check=True, capture_output=True, text=True).stdout

    machine = "aarch64" if "AArch64" in readelf("-h") else "x86_64"
    needed = re.findall(r"NEEDED.*\[(.+)\]", readelf("-d"))
    if not all(EVERYWHERE.match(name) for name in needed):
        return f"linux_{machine}"
    oldest = max(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", readelf("-V")))
    return f"manylinux_2_{oldest}_{machine}"


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        if version == "editable":
            return
        library = os.environ.get("RWKV_LIBRARY")
        if not library:
            prefix = tempfile.mkdtemp(prefix="librwkv-")
            subprocess.run([HERE / "../tools/build.sh", "--no-serve", prefix], check=True)
            library = f"{prefix}/lib/librwkv.so.0"
        build_data["force_include"][library] = "librwkv/librwkv.so.0"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform(library)}"
