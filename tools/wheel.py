"""Packs python/librwkv and a librwkv.so into a wheel:  python3 tools/wheel.py LIBRARY FOLDER

Prints the wheel's path. The library should be the stripped, statically linked one of a release. The wheel runs with any
Python from 3.10 on; its platform tag is the one of the oldest C library that has what the library needs, or plain
linux_ARCHITECTURE if it also needs libraries that not every Linux has.
"""

import base64
import hashlib
import pathlib
import re
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
# Libraries that PEP 600 expects everywhere.
EVERYWHERE = re.compile(r"(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux[-\w]*)\.so")


def version() -> str:
    header = (ROOT / "Sources/CRWKVABI/include/rwkv.h").read_text()
    return ".".join(re.findall(r"#define RWKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))


def platform(library: pathlib.Path) -> str:
    def readelf(option: str) -> str:
        return subprocess.run(["readelf", option, library], check=True, capture_output=True, text=True).stdout

    machine = "aarch64" if "AArch64" in readelf("-h") else "x86_64"
    needed = re.findall(r"NEEDED.*\[(.+)\]", readelf("-d"))
    if not all(EVERYWHERE.match(name) for name in needed):
        return f"linux_{machine}"
    oldest = max(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", readelf("-V")))
    return f"manylinux_2_{oldest}_{machine}"


def main() -> None:
    library, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    tag = f"py3-none-{platform(library)}"
    info = f"librwkv-{version()}.dist-info"
    files = {
        f"librwkv/{path.name}": path.read_bytes()
        for path in sorted((ROOT / "python/librwkv").glob("*"))
        if path.is_file()
    }
    files["librwkv/librwkv.so.0"] = library.read_bytes()
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: librwkv\nVersion: {version()}\nSummary: RWKV language models on CPUs\n"
        "License: MIT\nRequires-Python: >=3.10\nRequires-Dist: numpy\n"
    ).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: rwkv\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    record = f"{info}/RECORD"
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"librwkv-{version()}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            # The same date always, so that the same input gives the same bytes.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data, zipfile.ZIP_DEFLATED)
    print(path)


main()
