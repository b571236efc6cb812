#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the training and the held-out text from unpacked Debian documentation packages.

    make_corpus.py ROOT OUT

ROOT is the folder the packages were unpacked into (see README.md), OUT receives `train.bin` (documents separated by
byte 0), `heldout.txt` (plain text) and `heldout.list` (the documents the held-out text consists of).
The result depends on the packages only: files are taken in sorted order and every choice is made by a hash of the path.
"""
import hashlib
import html.parser
import os
import re
import sys
import unicodedata

# One entry per package: name, folder below ROOT, pattern of the paths, whether the licence lets us ship excerpts.
SOURCES = [
    ("python3.11-doc", "usr/share/doc/python3.11/html", r"\.html$", True),
    ("postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html", r"\.html$", True),
    ("git-doc", "usr/share/doc/git-doc", r"\.html$", True),
    ("python-django-doc", "usr/share/doc/python-django-doc/html", r"\.html$", True),
    ("python-sqlalchemy-doc", "usr/share/doc/python-sqlalchemy-doc", r"\.html$", True),
    ("sqlite3-doc", "usr/share/doc/sqlite3", r"\.html$", True),
    ("apache2-doc", "usr/share/doc/apache2-doc", r"\.html(\.en)?$", True),
    ("debian-policy", "usr/share/doc/debian-policy", r"\.html$", False),
    ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US", r"\.html$", False),
    ("debian-reference-en", "usr/share/debian-reference", r"\.en\.html$", False),
    ("developers-reference", "usr/share/developers-reference", r"\.html$", False),
    ("debian-faq", "usr/share/doc/debian/FAQ", r"\.en\.html$|/[^.]*\.html$", False),
    ("maint-guide", "usr/share/doc/maint-guide", r"\.en\.html$", False),
    ("installation-guide-amd64", "usr/share/doc/installation-guide-amd64/en", r"\.html?$", False),
    ("postfix-doc", "usr/share/doc/postfix/html", r"\.html$", False),
    ("gimp-help-en", "usr/share/gimp", r"/en/.*\.html$", False),
    ("libreoffice-help-en-us", "usr/share/libreoffice", r"\.html$", False),
    ("perl-doc", "usr/share/perl", r"\.pod$", False),
]

SKIPPED_PATHS = re.compile(r"/(genindex|search|searchindex|py-modindex|bookindex|_modules|_sources|translations)"
                           r"|/(zh_CN|it_IT|ja_JP|ko_KR|sp_SP|zh_TW|pt_BR|tr|fr|de|es)/"
                           r"|/changelog|/whatsnew/changelog|/release-\d|RelNotes|html/features\.html")
SKIPPED_TAGS = {"script", "style", "table", "pre", "nav", "header", "footer", "head", "form", "select", "svg", "math",
                "textarea", "button"}
SKIPPED_CLASSES = re.compile(r"\b(sphinxsidebar\w*|related|nav\w*|toc\w*|toctree-wrapper|footer|headerlink|"
                             r"highlight\w*|synopsis|programlisting|screen|breadcrumb\w*|menu|footnotes|indextable|"
                             r"local|versionadded|versionchanged|deprecated|sig|code|math|dirindex|top|bottomlang|"
                             r"toplang)\b")
BLOCKS = {"p", "li", "dd", "dt", "div", "section", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "body", "ul",
          "ol", "dl", "article", "main", "td", "th", "tr", "br", "hr", "aside", "center"}
VOID = {"br", "hr", "img", "meta", "link", "input", "col", "area", "base", "wbr", "source", "param"}
PLAIN = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": " - ", "\u2026": "...",
         "\u00a0": " ", "\u2212": "-", "\u2192": "->", "\u00d7": "x", "\u2022": "*", "\u00b6": "", "\u00ad": "",
         "\u2010": "-", "\u2011": "-", "\u00ab": '"', "\u00bb": '"', "\u2009": " ", "\u200b": "", "\u2264": "<=",
         "\u2265": ">=", "\uf0c1": ""}


class Extractor(html.parser.HTMLParser):
    """Collects (is_heading, text) for every block of a page outside code, tables and navigation."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.skip_at, self.parts, self.heading, self.blocks = [], None, [], False, []

    def flush(self):
        """Ends the current block."""
        text = " ".join("".join(self.parts).split())
        if text:
            self.blocks.append((self.heading, text))
        self.parts, self.heading = [], False

    def handle_starttag(self, tag, attrs):
        if tag in ("p", "li", "dt", "dd"):
            self.close_implied(tag)
        if tag in BLOCKS and self.skip_at is None:
            self.flush()
            self.heading = len(tag) == 2 and tag[0] == "h" and tag[1].isdigit()
        if tag in VOID:
            return
        self.open.append(tag)
        names = " ".join(value or "" for key, value in attrs if key in ("class", "id", "role"))
        if self.skip_at is None and (tag in SKIPPED_TAGS or SKIPPED_CLASSES.search(names)):
            self.skip_at = len(self.open)

    def close_implied(self, tag):
        """Closes an element whose end tag HTML lets a page leave out."""
        if self.open and self.open[-1] == tag:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.open:
            return
        while self.open:
            last = self.open.pop()
            if self.skip_at is not None and len(self.open) < self.skip_at:
                self.skip_at = None
            if last == tag:
                break
        if tag in BLOCKS and self.skip_at is None:
            self.flush()

    def handle_data(self, data):
        if self.skip_at is None:
            self.parts.append(data)


def pod_blocks(source):
    """The (is_heading, text) blocks of a POD file: its prose paragraphs and headings, formatting codes removed."""
    blocks, active = [], False
    for paragraph in re.split(r"\n\s*\n", source):
        first = paragraph.split(None, 1)[0] if paragraph.strip() else ""
        if first.startswith("="):
            active = first not in ("=cut", "=begin", "=for")
            if first.startswith("=head"):
                blocks.append((True, " ".join(paragraph.split()[1:])))
        elif active and paragraph[:1] not in (" ", "\t"):
            blocks.append((False, " ".join(paragraph.split())))
    plain = []
    for heading, text in blocks:
        for _ in range(3):
            text = re.sub(r"L<([^<>|]*)\|[^<>]*>", r"\1", text)
            text = re.sub(r"[A-Z]<<+ (.*?) >>+", r"\1", text)
            text = re.sub(r"[IBCLFSX]<([^<>]*)>", r"\1", text)
        text = text.replace("E<gt>", ">").replace("E<lt>", "<").replace("E<sol>", "/")
        plain.append((heading, text))
    return plain


def ascii_text(text):
    """`text` with typographic characters replaced by plain ones."""
    text = "".join(PLAIN.get(c, c) for c in unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def is_prose(text):
    """True when a block reads as sentences: long enough, mostly letters, ending as a sentence does."""
    if len(text) < 60 or not re.search(r"[.:!?][)\"']*$", text):
        return False
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    words = [w for w in text.split() if w.strip("(),.;:'\"").isalpha()]
    strange = sum(not c.isascii() for c in text)
    return letters > 0.92 * len(text) and len(words) > 0.78 * len(text.split()) and strange <= 1 \
        and len(text.split()) > 0.12 * len(text)


def page_blocks(path):
    """The cleaned blocks of one file: (is_heading, text) with only prose and the headings in front of it."""
    with open(path, encoding="utf-8", errors="replace") as file:
        source = file.read()
    if path.endswith(".pod"):
        raw = pod_blocks(source)
    else:
        page = Extractor()
        page.feed(source)
        page.flush()
        raw = page.blocks
    blocks = [(heading, ascii_text(text)) for heading, text in raw]
    return [(heading, text) for heading, text in blocks
            if (heading and 2 < len(text) < 80 and text.isascii()) or (not heading and is_prose(text))]


def document(blocks, seen):
    """The text of one document without paragraphs already in `seen` (a set of hashes, which it extends)."""
    lines, pending = [], None
    for heading, text in blocks:
        if heading:
            pending = re.sub(r"^[A-Z]?[\d.]+\s+", "", text)
            continue
        key = hashlib.blake2b(re.sub(r"[\W\d]+", "", text.lower()).encode(), digest_size=8).digest()
        if key in seen:
            continue
        seen.add(key)
        if pending:
            lines.append(pending)
            pending = None
        lines.append(text)
    return "\n\n".join(lines) + "\n" if lines else ""


def draw(path):
    """A fixed number in 0..<1 for a path."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=6).digest(), "big") / 2 ** 48


def collect(root):
    """All documents as (package, path below root, blocks, may be shipped), in sorted order."""
    found = []
    for package, folder, pattern, free in SOURCES:
        paths = []
        for base, _, names in os.walk(os.path.join(root, folder)):
            paths += [os.path.join(base, name) for name in names]
        count = 0
        for path in sorted(paths):
            relative = os.path.relpath(path, root)
            if not re.search(pattern, path) or SKIPPED_PATHS.search("/" + relative) or os.path.islink(path):
                continue
            blocks = page_blocks(path)
            size = sum(len(text) for _, text in blocks)
            if size > 600:
                found.append((package, relative, blocks, free))
                count += size
        print(f"{package:28} {count / 1e6:8.2f} MB", flush=True)
    return found


def main(root, out, heldout_size=260_000):
    """Writes the corpus. The held-out documents are chosen and de-duplicated first, so that no paragraph of theirs
    can appear in the training text."""
    documents = collect(root)
    candidates = [d for d in documents if d[3] and 5_000 < sum(len(t) for _, t in d[2]) < 40_000]
    candidates.sort(key=lambda d: draw("heldout:" + d[1]))
    os.makedirs(out, exist_ok=True)
    seen, held, texts = set(), set(), []
    for package, path, blocks, _ in candidates:
        if sum(map(len, texts)) < heldout_size:
            texts.append(document(blocks, seen))
            held.add((package, path))
    with open(os.path.join(out, "heldout.txt"), "w", encoding="utf-8") as file:
        file.write("\n\n".join(texts))
    with open(os.path.join(out, "heldout.list"), "w", encoding="utf-8") as file:
        file.writelines(f"{package}\t{path}\n" for package, path in sorted(held))
    rest = [d for d in documents if (d[0], d[1]) not in held]
    rest.sort(key=lambda d: draw("order:" + d[1]))
    total = 0
    with open(os.path.join(out, "train.bin"), "wb") as file:
        for _, _, blocks, _ in rest:
            text = document(blocks, seen)
            if len(text) > 400:
                total += file.write(text.encode() + b"\0")
    held_out = sum(map(len, texts)) / 1e3
    print(f"training text {total / 1e6:.2f} MB, held-out text {held_out:.0f} KB, {len(held)} documents")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
