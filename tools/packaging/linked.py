#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""linked.py: the folders of the packages that are in the server, one a line.

Others are fetched as well, for other systems or for what the server does not use: the list is the linker's.
"""
import pathlib
import re

BUILD = pathlib.Path(__file__).resolve().parents[2] / ".build/static-server"
objects = (BUILD / "release/rwkv-serve.product/Objects.LinkFileList").read_text()
modules = set(re.findall(r"/release/([^/]+)\.build/", objects))
for package in sorted((BUILD / "checkouts").iterdir()):
    if any(target.name in modules for target in (package / "Sources").iterdir()):
        print(package)
