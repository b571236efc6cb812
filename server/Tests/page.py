#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries the page in a real browser, against mock.py.

    pip install playwright==1.55.0
    server/Tests/page.py [TEST]...
    server/Tests/page.py --screenshots FOLDER

The browser is Debian's chromium (or CHROMIUM). Without it, or without playwright, nothing is tried: one line says so.
"""

import json
import os
import pathlib
import shutil
import sys
import time

import mock

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sys.exit(print("skipped: no playwright (pip install playwright==1.55.0)"))


class Tried:
    """A page in a browser that has seen nothing yet."""

    def __init__(self, browser, server, **options):
        self.context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True, **options)
        self.page, self.server, self.errors, self.asked = self.context.new_page(), server, [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(server.url)
        self.until("model.id !== ''")

    def until(self, condition):
        """Waits; wait_for_function cannot, since the page's policy lets nothing be evaluated."""
        deadline = time.time() + 10
        while not self.page.evaluate(condition):
            assert time.time() < deadline, f"never: {condition}"
            self.page.wait_for_timeout(20)

    def reload(self):
        self.page.reload()
        self.until("model.id !== ''")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert not self.errors, self.errors
            foreign = [url for url in self.asked if not url.startswith((self.server.url, "data:", "blob:"))]
            assert not foreign, foreign
        self.context.close()

    def say(self, text):
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")

    def ended(self):
        self.until("runs.size === 0")

    def answer(self, text):
        self.say(text)
        self.ended()
        return self.last()

    def last(self):
        return self.page.locator(".message .body").last.inner_text()

    def messages(self):
        return self.page.locator(".message .body").all_inner_texts()

    def press(self, name):
        self.page.locator(".message").last.get_by_role("button", name=name, exact=True).click()

    def has(self, text):
        expect(self.page.locator("#log")).to_contain_text(text)


def conversation(t):
    """Two turns; a reload shows the same, and the second request carried the first turn."""
    first = t.answer("Hello")
    second = t.answer("And again?")
    request = t.server.requests[-1]
    assert [m["role"] for m in request["messages"]] == ["user", "assistant", "user"], request
    assert request["messages"][1]["content"].strip() == first.strip()
    before = t.messages()
    t.reload()
    assert t.messages() == before == ["Hello", first, "And again?", second]
    t.has("33.3 tokens/s")
    t.has("90 of 100 read before")
    expect(t.page.locator("#memory")).to_have_text("Memory 2.4 MB")


def stop(t):
    """An endless answer is stopped by Esc, its request is gone, and the text is kept."""
    t.say("endless")
    expect(t.page.locator(".message .body").last).to_contain_text(" ", timeout=3000)
    t.page.wait_for_timeout(300)
    t.page.keyboard.press("Escape")
    t.ended()
    t.has("stopped")
    deadline = time.time() + 5
    while not t.server.left and time.time() < deadline:
        t.page.wait_for_timeout(50)
    assert t.server.left == ["endless"]
    kept = t.last()
    t.reload()
    assert t.last() == kept


def undo(t):
    """Undo gives the message back for editing; what is said then is a branch, and redo and the arrows find both."""
    first = t.answer("One")
    second = t.answer("Two")
    t.page.click("#undo")
    assert t.page.input_value("#input") == "Two" and t.messages() == ["One", first]
    t.page.click("#redo")
    assert t.messages() == ["One", first, "Two", second] and t.page.input_value("#input") == ""
    t.page.click("#undo")
    third = t.answer("Three")
    assert t.messages() == ["One", first, "Three", third]
    t.page.get_by_role("button", name="Branch before").last.click()
    assert t.messages() == ["One", first, "Two", second]
    t.page.keyboard.press("Alt+ArrowRight")
    assert t.messages() == ["One", first, "Three", third]
    t.page.click("#tree")
    assert t.page.locator(".tree button").count() == 6
    t.page.locator(".tree button").nth(3).click()
    assert t.messages() == ["One", first, "Two", second]


def branches(t):
    """Another answer, a changed message, a conversation of its own."""
    first = t.answer("Question")
    t.press("Regenerate")
    t.until("runs.size === 0 && document.querySelectorAll('.message').length === 2")
    second = t.last()
    assert first != second
    expect(t.page.locator(".message").last).to_contain_text("2/2")
    t.page.locator(".message.user").get_by_role("button", name="Edit").click()
    t.page.locator(".message textarea").fill("Changed")
    t.page.get_by_role("button", name="Send as a new branch").click()
    t.until("runs.size === 0 && document.querySelectorAll('.message').length === 2")
    assert t.messages()[0] == "Changed"
    changed = t.messages()
    t.press("Branch off")
    expect(t.page.locator("#list li")).to_have_count(2)
    assert t.messages() == changed
    t.answer("Only here")
    t.page.locator("#list .open").last.click()
    expect(t.page.locator(".message .body")).to_have_text(changed, use_inner_text=True)


def go_on(t):
    """A text that broke off is gone on with: the server gets it as the last message."""
    kept = t.answer("break")
    t.has("The connection broke off")
    t.press("Continue")
    t.until("runs.size === 0")
    last = t.server.requests[-1]
    assert last["messages"][-1]["role"] == "assistant" and last["continue_final_message"] is True
    assert last["messages"][-1]["content"].strip() == kept.strip()
    assert t.last().startswith(kept) and len(t.last()) > len(kept)


def tokens(t):
    """Another token is chosen by keyboard: a branch that begins with what stood before it."""
    t.answer("Hello")
    t.press("Tokens")
    spans = t.page.locator(".token")
    assert spans.count() == 12
    before = "".join(t.page.locator(".token").all_text_contents()[:2])
    spans.first.focus()
    t.page.keyboard.press("ArrowRight")
    t.page.keyboard.press("ArrowRight")
    t.page.keyboard.press("Enter")
    expect(t.page.locator("#alternatives button")).to_have_count(3)
    t.page.locator("#alternatives button", has_text="maybe").click()
    t.until("runs.size === 0")
    request = t.server.requests[-1]
    assert request["messages"][-1] == {"role": "assistant", "content": before + "maybe "}, request["messages"]
    expect(t.page.locator(".message").last).to_contain_text("2/2")
    assert t.last().startswith((before + "maybe").strip())


def bookmark(t):
    """A memory is saved to a file and loaded; a server that forgot it gets it again."""
    t.answer("Remember me")
    with t.page.expect_download() as download:
        t.press("Bookmark")
    file = pathlib.Path(download.value.path())
    assert download.value.suggested_filename == "Remember me.state"
    assert len(json.loads(file.read_bytes())["messages"]) == 2
    t.page.wait_for_timeout(200)
    assert t.server.states == {}, "the server keeps nothing that nobody asked it to keep"
    t.page.click("#memories")
    with t.page.expect_file_chooser() as chooser:
        t.page.get_by_role("button", name="From a file…").click()
    chooser.value.set_files({"name": "mine.state", "mimeType": "application/octet-stream", "buffer": file.read_bytes()})
    t.has("Goes on from the memory “mine”")
    (name,) = t.server.states
    t.answer("Who am I?")
    assert t.server.requests[-1]["state"] == name and len(t.server.requests[-1]["messages"]) == 1
    t.server.states.clear()
    t.reload()
    t.answer("Still?")
    assert list(t.server.states) == [name] and not t.page.locator(".problem").count()


def thinking_and_prompts(t):
    """Thoughts are folded once the answer begins; the progress of a long prompt is shown."""
    t.say("think about a long text")
    expect(t.page.locator("#status progress")).to_be_visible()
    expect(t.page.locator("#status")).to_contain_text("of 2,000 tokens")
    expect(t.page.locator(".thought")).to_have_attribute("open", "")
    t.ended()
    expect(t.page.locator(".thought")).not_to_have_attribute("open", "")
    assert t.page.locator(".thought > div").text_content() == "Let me see."


def marks(t):
    """Markdown is shown; nothing of it is executed, and nothing is fetched."""
    t.answer("marks")
    body = t.page.locator(".message .body").last
    for selector, count in {
        "h1": 1,
        "strong": 1,
        "em": 1,
        "ul": 2,
        "li": 3,
        "table tr": 2,
        "pre": 1,
        "blockquote": 1,
        "a": 1,
        "img": 0,
        "script": 0,
    }.items():
        assert body.locator(selector).count() == count, selector
    assert "broken in" not in t.page.title()


def busy_and_wrong(t):
    """A full server is asked again; an error has the server's words."""
    t.say("busy")
    expect(t.page.locator("#status")).to_contain_text("Many are waiting.")
    t.ended()
    t.until("runs.size === 0")
    assert len(t.messages()[-1]) > 10 and len(t.server.requests) == 3
    t.answer("wrong")
    expect(t.page.locator(".problem")).to_have_text("This is wrong: use the other one.")


def settings(t):
    """Settings are sent, a preset sets them, and a new conversation has them too."""
    t.page.click("#settings")
    t.page.select_option("[name=preset]", "Balanced")
    t.page.fill("[name=system]", "Be brief.")
    t.page.fill("[name=max_tokens]", "50")
    t.page.fill("[name=seed]", "7")
    t.page.fill("[name=stop]", "\\n\\nUser:\nEND")
    t.page.select_option("[name=reasoning]", "on")
    t.page.select_option("[name=format]", "schema")
    t.page.fill("[name=schema]", '{"type": "object"}')
    t.page.get_by_role("button", name="Use", exact=True).click()
    t.answer("Hello")
    request = t.server.requests[-1]
    wanted = {
        "temperature": 1,
        "top_p": 0.5,
        "max_tokens": 50,
        "seed": 7,
        "stop": ["\n\nUser:", "END"],
        "reasoning": "on",
        "logprobs": True,
        "top_logprobs": 5,
    }
    assert {name: request.get(name) for name in wanted} == wanted, request
    assert request["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "top_k" not in request
    t.page.click("#new")
    t.answer("Other")
    assert t.server.requests[-1]["top_p"] == 0.5 and t.server.requests[-1]["messages"][0]["role"] == "user"


def export(t):
    """What was exported can be imported in another browser; other files are refused."""
    t.answer("Keep me")
    wanted = t.messages()
    with t.page.expect_download() as download:
        t.page.click("#export")
    exported = pathlib.Path(download.value.path()).read_bytes()
    t.page.locator("#list li").get_by_role("button", name="Delete").click()
    expect(t.page.locator("#list li")).to_have_count(0)
    ring = json.loads(exported)
    nodes = ring["conversations"][0]["nodes"]
    del nodes["0"]["last"]
    nodes["0"]["children"], nodes["1"]["parent"], nodes["2"]["children"] = [], 2, [1]
    for content in (b"no JSON", b"{}", json.dumps(ring).encode(), exported):
        with t.page.expect_file_chooser() as chooser:
            t.page.click("#import")
        chooser.value.set_files({"name": "some.json", "mimeType": "application/json", "buffer": content})
        expect(t.page.locator("#toast")).to_contain_text("1 conversations" if content == exported else "some.json:")
    t.page.locator("#list .open").click()
    expect(t.page.locator(".message .body")).to_have_text(wanted, use_inner_text=True)
    t.page.locator("#list li").get_by_role("button", name="Delete").click()
    t.page.click("#toast button")
    expect(t.page.locator("#list li")).to_have_count(1)


def two_at_once(t):
    """One conversation is read while another is written."""
    t.say("endless")
    t.page.click("#new")
    t.say("Hello")
    t.until("runs.size === 1")
    expect(t.page.locator("#list")).to_contain_text("● endless")
    t.page.locator("#list .open", has_text="endless").click()
    expect(t.page.locator("#stop")).to_be_visible()
    t.page.click("#stop")
    t.ended()


def narrow(t):
    """On a telephone nothing is wider than the screen, and the list comes and goes."""
    t.page.set_viewport_size({"width": 360, "height": 640})
    t.answer("marks " + "x" * 300)
    assert t.page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(t.page.locator("#side")).not_to_be_visible()
    t.page.click("#menu")
    expect(t.page.locator("#side")).to_be_visible()
    t.page.locator("#list .open").click()
    expect(t.page.locator("#side")).not_to_be_visible()


def labels(t):
    """Everything that can be used has a name."""
    t.answer("Hello")
    t.press("Tokens")
    nameless = t.page.evaluate("""
        [...document.querySelectorAll('button, input:not([hidden]), select, textarea')]
            .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title))
            .map(e => e.outerHTML)""")
    assert not nameless, nameless
    t.page.click("#settings")
    assert t.page.evaluate("document.activeElement.closest('dialog') !== null")
    assert t.page.evaluate("[...document.querySelectorAll('dialog [name]')].every(e => e.labels.length === 1)")


def text(t):
    """Models that know no chats: a text is gone on with, from prompt and own words alike."""
    t.answer("Once upon")
    first = t.server.requests[-1]
    assert first["prompt"] == "Once upon" and first["logprobs"] == 5
    written = t.messages()[-1]
    t.answer(" a time")
    assert t.server.requests[-1]["prompt"].startswith("Once upon" + written[:5])
    assert t.server.requests[-1]["prompt"].endswith(" a time")
    t.page.fill("#input", "")
    t.page.click("#send")
    t.until("runs.size === 0")
    assert len(t.server.requests) == 3


def key(t):
    """A key is asked for once, and kept."""
    t.answer("Hello")
    t.reload()
    assert not t.page.locator("dialog[open]").count()


class WithKey(Tried):
    def __init__(self, browser, server, **options):
        self.context = browser.new_context(**options)
        self.page, self.server, self.errors, self.asked = self.context.new_page(), server, [], []
        self.page.goto(server.url)
        self.page.fill("dialog input", "secret")
        self.page.get_by_role("button", name="Use").click()
        self.until("model.id !== ''")


def screenshots(browser, folder):
    """Pictures for people to look at."""
    for scheme, width, height in (("light", 1200, 800), ("dark", 1200, 800), ("dark", 390, 760)):
        with Tried(browser, mock.Mock(), color_scheme=scheme) as t:
            t.page.set_viewport_size({"width": width, "height": height})
            t.answer("What is a state?")
            t.answer("think and give me marks")
            t.page.screenshot(path=folder / f"page-{scheme}-{width}.png")
            t.page.locator(".message.assistant").first.get_by_role("button", name="Tokens").click()
            t.page.locator(".token").nth(3).click()
            t.page.screenshot(path=folder / f"tokens-{scheme}-{width}.png")
            t.page.keyboard.press("Escape")
            t.page.click("#settings")
            t.page.screenshot(path=folder / f"settings-{scheme}-{width}.png")


def main():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        return print("skipped: no chromium (apt-get install chromium, or CHROMIUM=PATH)")
    tests = [
        conversation,
        stop,
        undo,
        branches,
        go_on,
        tokens,
        bookmark,
        thinking_and_prompts,
        marks,
        busy_and_wrong,
        settings,
        export,
        two_at_once,
        narrow,
        labels,
    ]
    wanted = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    failed = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if "--screenshots" in sys.argv:
            return screenshots(browser, pathlib.Path(wanted[0]))
        for test, start, options in [(test, Tried, {}) for test in tests] + [
            (text, Tried, {"template": "none"}),
            (key, WithKey, {"key": "secret"}),
        ]:
            if wanted and test.__name__ not in wanted:
                continue
            try:
                with start(browser, mock.Mock(**options)) as tried:
                    tried.context.set_default_timeout(10000)
                    test(tried)
                print(f"ok      {test.__name__}")
            except Exception as error:  # the other tests go on
                failed.append(test.__name__)
                print(f"FAILED  {test.__name__}: {type(error).__name__}: {error}")
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
