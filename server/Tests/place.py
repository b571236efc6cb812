# SPDX-License-Identifier: MIT
"""What the tests of clients share: a server, a model, and the list of tests."""

import contextlib
import pathlib
import re
import subprocess
import sys

with contextlib.suppress(ImportError):
    import openai

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "examples/model/heldout.txt").read_bytes()[:2000].decode(errors="ignore")
tests = []


def test(*needed):
    """A test, and the packages without which it is skipped."""

    def register(function):
        tests.append((function, needed))
        return function

    return register


def built(name):
    """The newest program of this name in the builds of this checkout."""
    found = [path for build in (".build", "server/.build") for path in ROOT.glob(f"{build}/*/{name}") if path.is_file()]
    return str(max(found, key=lambda path: path.stat().st_mtime)) if found else sys.exit(f"{name} is not built")


class Server:
    """rwkv-serve on a port that it picks."""

    def __init__(self, program, model, *options):
        arguments = [program, model, "--port", "0", "--template", "g1", "--alias", "tiny", *options]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if address := re.search(r"listening on (http://\S+)", line):
                self.url = address[1]
                return
        sys.exit(f"rwkv-serve ended with {self.process.wait()} before it listened")

    def close(self):
        """SIGTERM lets it finish, and it leaves with 0."""
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0, self.process.returncode


class Place:
    """What a test gets: an address, a model file, a folder."""

    def __init__(self, url, model, folder, program):
        self.url, self.model, self.folder, self.program = url, model, folder, program

    def openai(self, kind="OpenAI", **options):
        return getattr(openai, kind)(base_url=f"{self.url}/v1", api_key="any", max_retries=0, **options)
