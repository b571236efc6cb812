#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""sbom.py VERSION FILE...: what the files of a release consist of, as SPDX 2.3 (JSON), on standard output.

Versions come from Package.resolved (the programs', and the server's, of which the archive has licences: others are not
linked in), from the compiler and from pkg-config. The programs have the compiler's runtime, Dispatch and Foundation in
them, the server the rest of Foundation as well, which has ICU. SOURCE_DATE_EPOCH is the time of its making.
"""
import datetime
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LICENSES = {"hummingbird": "Apache-2.0", "async-http-client": "Apache-2.0"}


def said_by(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def package(name, version, license_id, url):
    identity = "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)
    return {"SPDXID": identity, "name": name, "versionInfo": version, "downloadLocation": url, "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": license_id, "copyrightText": "NOASSERTION"}


def resolved(path):
    pins = json.loads(path.read_text())["pins"]
    return [package(pin["identity"], pin["state"].get("version", pin["state"]["revision"]), LICENSES.get(
        pin["identity"], "Apache-2.0" if "apple" in pin["location"] or "swift" in pin["location"] else "NOASSERTION"),
        pin["location"]) for pin in pins]


def icu_version():
    headers = pathlib.Path(shutil.which("swift")).resolve().parents[1] / "lib/swift_static/_foundation_unicode"
    return re.search(r'define U_ICU_VERSION "([^"]+)"', (headers / "uvernum.h").read_text()).group(1)


def served(files):
    """Names of the packages that are in the server."""
    archive = next(path for path in files if "-linux-" in path and path.endswith(".tar.gz"))
    with tarfile.open(archive) as content:
        return {pathlib.Path(name).stem for name in content.getnames() if "/licenses/server/" in name}


def parts_of(files):
    swift = re.search(r"Swift version (\S+)", said_by("swift", "--version")).group(1)
    parts = [package(name, swift, "Apache-2.0 WITH Swift-exception", url) for name, url in [
        ("swift-runtime", "https://www.swift.org/"),
        ("swift-corelibs-libdispatch", "https://github.com/swiftlang/swift-corelibs-libdispatch"),
        ("swift-foundation", "https://github.com/swiftlang/swift-foundation")]]
    parts.append(package("zstd", said_by("pkg-config", "--modversion", "libzstd").strip(), "BSD-3-Clause",
                         "https://facebook.github.io/zstd/"))
    parts += resolved(ROOT / "Package.resolved")
    names = served(files) - {part["name"] for part in parts}
    if names:
        parts += [package("swift-corelibs-foundation", parts[0]["versionInfo"], "Apache-2.0 WITH Swift-exception",
                          "https://github.com/swiftlang/swift-corelibs-foundation"),
                  package("icu", icu_version(), "Unicode-3.0", "https://github.com/swiftlang/swift-foundation-icu")]
        parts += [part for part in resolved(ROOT / "server/Package.resolved") if part["name"] in names]
    return parts


def main(version, files):
    parts = parts_of(files)
    product = package("rwkv", version, "MIT", "NOASSERTION")
    entries, relations = [], [("SPDXRef-DOCUMENT", "DESCRIBES", product["SPDXID"])]
    for index, path in enumerate(sorted(files)):
        identity = f"SPDXRef-File-{index}"
        content = pathlib.Path(path).read_bytes()
        entries.append({"SPDXID": identity, "fileName": pathlib.Path(path).name, "licenseConcluded": "NOASSERTION",
                        "copyrightText": "NOASSERTION", "checksums": [
                            {"algorithm": "SHA1", "checksumValue": hashlib.sha1(content).hexdigest()},
                            {"algorithm": "SHA256", "checksumValue": hashlib.sha256(content).hexdigest()}]})
        relations.append((identity, "GENERATED_FROM", product["SPDXID"]))
    relations += [(product["SPDXID"], "STATIC_LINK", part["SPDXID"]) for part in parts]
    time = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    digest = hashlib.sha256("".join(sorted(c["checksums"][1]["checksumValue"] for c in entries)).encode()).hexdigest()
    json.dump({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"rwkv-{version}",
        "documentNamespace": f"urn:sha256:{digest}",
        "creationInfo": {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: rwkv-sbom.py"]},
        "packages": [product] + parts, "files": entries,
        "relationships": [
            {"spdxElementId": a, "relationshipType": b, "relatedSpdxElement": c} for a, b, c in relations],
    }, sys.stdout, indent=1)
    print()


main(sys.argv[1], sys.argv[2:])
