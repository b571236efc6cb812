#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries the page in a real browser as the server gives it, with a model that writes.

    pip install playwright==1.55.0
    server/Tests/page_served.py rwkv-serve MODEL.rwkv [TEST]...
    server/Tests/page_served.py rwkv-serve MODEL.rwkv --screenshots FOLDER

MODEL is the one in examples/model in any type, which writes a documentation's English. page.py tries more, against a
stand-in.
"""

import os
import pathlib
import shutil
import sys
import time

from page import Tried, expect, sync_playwright
from server import Server


def set_up(t, **fields):
    t.page.click("#settings")
    for name, value in fields.items():
        t.page.fill(f"[name={name}]", str(value))
    t.page.get_by_role("button", name="Use", exact=True).click()


def chat(t):
    """First load, two turns, the second of which costs its own tokens; undo, another answer, a reload."""
    expect(t.page.locator("#input")).to_be_focused()
    set_up(t, max_tokens=40, seed=7)
    first = t.answer("What is an index? " * 30)
    assert first
    second = t.answer("And a table?")
    before = int(t.page.locator(".message").last.inner_text().split(" read before")[0].split(" of ")[-2].split()[-1])
    assert before > 100, "the first turn was read again"
    shown = t.messages()
    t.reload()
    assert t.messages() == shown
    t.page.click("#undo")
    assert t.page.input_value("#input") == "And a table?" and len(t.messages()) == 2
    t.page.click("#redo")
    t.page.fill("#input", "")
    assert t.messages() == shown
    t.press("Regenerate")
    t.until("runs.size === 0 && document.querySelectorAll('.message').length === 4")
    expect(t.page.locator(".message").last).to_contain_text("2/2")
    t.page.get_by_role("button", name="Branch before").last.click()
    assert t.last() == second


def stop(t):
    """Esc ends an answer, on the server too, and what was written stays."""
    set_up(t, max_tokens=100000, seed=3)
    t.say("Tell me all.")
    t.until("document.querySelector('.message.assistant .body')?.textContent.length > 20")
    t.page.keyboard.press("Escape")
    t.ended()
    deadline = time.time() + 5
    while t.server.metric("requests_active"):
        assert time.time() < deadline, "it goes on"
    kept = t.last()
    t.reload()
    assert kept and t.last() == kept


def bookmark(t):
    """A memory is a file; a conversation begins with it, also after the server has forgotten it."""
    set_up(t, max_tokens=20, seed=1)
    t.answer("Remember the number 42.")
    with t.page.expect_download() as download:
        t.press("Bookmark")
    file = pathlib.Path(download.value.path()).read_bytes()
    assert len(file) > 10_000
    t.page.click("#memories")
    with t.page.expect_file_chooser() as chooser:
        t.page.get_by_role("button", name="From a file…").click()
    chooser.value.set_files({"name": "mine.state", "mimeType": "application/octet-stream", "buffer": file})
    t.has("Goes on from the memory “mine”")
    (state,) = t.server.ask("GET", "/v1/states")[1]["data"]
    set_up(t, max_tokens=20, seed=1)
    first = t.answer("Which one?")
    assert t.server.ask("DELETE", f"/v1/states/{state['id']}")[0] == 200
    t.reload()
    t.page.click("#undo")
    assert t.answer("Which one?") == first and not t.page.locator(".problem").count()


def words(t):
    """Another token is chosen, and the text goes on from there; nothing is wider than a telephone's screen."""
    set_up(t, max_tokens=30, seed=5)
    t.answer("Say something.")
    t.press("Tokens")
    t.page.locator(".token").nth(2).click()
    t.page.locator("#alternatives button:enabled").first.click()
    t.until("runs.size === 0")
    expect(t.page.locator(".message").last).to_contain_text("2/2")
    t.page.set_viewport_size({"width": 360, "height": 640})
    assert t.page.evaluate("document.documentElement.scrollWidth") <= 360


def text(t):
    """A model that knows no chats goes on with a text."""
    set_up(t, max_tokens=40, seed=2)
    # The model's tokens are bytes.
    assert len(t.answer("A database is")) > 20
    t.has("tokens/s")


def screenshots(browser, server, folder):
    """Pictures for docs/serving-page.md."""
    for scheme, width, height in (("light", 1000, 620), ("dark", 390, 620)):
        with Tried(browser, server, color_scheme=scheme) as t:
            t.page.set_viewport_size({"width": width, "height": height})
            set_up(t, max_tokens=160, seed=4, temperature=0.7, alternatives=6)
            t.answer("A database index is")
            t.press("Regenerate")
            t.until("runs.size === 0")
            t.page.screenshot(path=folder / f"page-{scheme}.png")
            t.press("Tokens")
            t.page.locator(".message").last.locator(".token").nth(12).click()
            t.page.screenshot(path=folder / f"page-tokens-{scheme}.png")


def main():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        return print("skipped: no chromium (apt-get install chromium, or CHROMIUM=PATH)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if "--screenshots" in sys.argv:
            with Server("--template", "none") as server:
                return screenshots(browser, server, pathlib.Path(sys.argv[-1]))
        for tests, template in [((chat, stop, bookmark, words), "g1"), ((text,), "none")]:
            with Server("--template", template) as server:
                for test in tests:
                    if sys.argv[3:] and test.__name__ not in sys.argv[3:]:
                        continue
                    with Tried(browser, server) as tried:
                        tried.context.set_default_timeout(20000)
                        test(tried)
                    print(f"ok      {test.__name__}", flush=True)


if __name__ == "__main__":
    main()
