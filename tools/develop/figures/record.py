#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs commands in a terminal and draws what it showed, when it showed it, as a moving SVG: the picture in README.md.

usage, in an empty folder, with the programs in PATH:
  record.py OUT.svg [--width 100] [--title TEXT] 'command' 'command' …

Commands appear as if they were typed; their output appears as it came. The picture begins anew after a pause. Where
nothing moves, in print or for readers who do not want motion, it shows the end.
"""
import argparse
import fcntl
import html
import os
import pty
import struct
import subprocess
import sys
import termios
import time

#: Seconds: three characters that are typed; before and after a command; at the end; what is shown at once.
TYPING, PAUSE, END, FRAME = 0.1, 0.7, 4.0, 0.05


def record(command, width):
    """What a command wrote to a terminal of this width: pairs of seconds since its start, all that it wrote by then."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = dict(os.environ, TERM="xterm", NO_COLOR="1")
    start = time.monotonic()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output, shown = b"", []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the last writer is gone
            part = b""
        if not part:
            break
        output += part
        shown.append((time.monotonic() - start, output.decode("utf-8", "ignore")))
    if process.wait() != 0:
        sys.exit(f"{command}: exit code {process.returncode}\n{output.decode()}")
    return shown


def screen(text, width):
    """The lines that a terminal shows: \\r goes back, ESC [K erases, long lines wrap."""
    lines, line, column = [], [], 0
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("".join(line))
            line, column = [], 0
        elif text.startswith("\x1b[K", position - 1):
            line = line[:column]
            position += 2
        else:
            if column == width:
                lines.append("".join(line))
                line, column = [], 0
            line[column:column + 1] = [character]
            column += 1
    return lines + (["".join(line)] if line else [])


def frames(commands, width):
    """Pairs of seconds, the lines that are there by then; a line is (text, is a command)."""
    before, now = [], PAUSE
    for command in commands:
        if before:
            before.append(("", False))
        typed = "$ " + command
        for count in range(2, len(typed) + 3, 3):
            yield now, before + [(line, True) for line in screen(typed[:count], width)]
            now += TYPING
        before += [(line, True) for line in screen(typed, width)]
        now += PAUSE
        lines, last = before, -FRAME
        for seconds, text in (shown := record(command, width)):
            lines = before + [(line, False) for line in screen(text, width)]
            if seconds - last < FRAME and seconds != shown[-1][0]:
                continue
            last = seconds
            yield now + seconds, lines
        before = list(lines)
        now += (shown[-1][0] if shown else 0) + PAUSE
    yield now + END, before


def pieces(frames):
    """What is drawn: [line, column, text, is a command, seconds from which, seconds until which (None: the end)]."""
    drawn, lines = [], {}
    for now, shown in frames:
        for number, (text, is_command) in enumerate(shown):
            old = "".join(piece[2] for piece in lines.get(number, []))
            if text == old:
                continue
            if not text.startswith(old):
                for piece in lines.pop(number):
                    piece[5] = now
                old = ""
            piece = [number, len(old), text[len(old):], is_command, now, None]
            drawn.append(piece)
            lines.setdefault(number, []).append(piece)
    return drawn


def draw(frames, width, title):
    """An SVG that moves by CSS: each piece of text is visible from one percentage of the time to another."""
    frames = list(frames)
    total, height_in_lines = frames[-1][0], max(len(lines) for _, lines in frames)
    advance, height, margin = 8.4, 19, 16
    styles, texts = {}, []
    for number, column, text, is_command, first, last in pieces(frames):
        key = (round(100 * first / total, 2), last and round(100 * last / total, 2))
        if not text.strip() or key[0] == key[1]:
            continue
        style = styles.setdefault(key, f"t{len(styles)}")
        y = margin + height * (number + 1) - 4
        colour = ' fill="#8fd694"' if is_command else ""
        # The length is given, so that any monospaced font fills the same place.
        length = f'textLength="{len(text) * advance:.1f}" lengthAdjust="spacingAndGlyphs"'
        texts.append(
            f'<text class="{style}" x="{margin + column * advance:.1f}" y="{y}"{colour} {length}>'
            f'{html.escape(text)}</text>')
    css = [f"text{{white-space:pre;animation:{total:.1f}s step-end infinite}}"]
    for (first, last), style in styles.items():
        end = f"{last}%{{opacity:0}}" if last is not None else ""
        css.append(f"@keyframes {style}{{0%{{opacity:0}}{first}%{{opacity:1}}{end}}}")
        css.append(f".{style}{{animation-name:{style}{';opacity:0' if last is not None else ''}}}")
    css.append("@media (prefers-reduced-motion:reduce){text{animation:none}}")
    parts = [
        (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * advance + 2 * margin:.0f}" '
        f'height="{height_in_lines * height + 2 * margin + 4}" role="img" xml:space="preserve" '
        'font-family="Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14" fill="#d8dee9">'),
        f"<title>{html.escape(title)}</title>",
        "<style>" + "\n".join(css) + "</style>",
        '<rect width="100%" height="100%" rx="8" fill="#1d2027"/>',
    ]
    return "\n".join(parts + texts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--title", default="A terminal")
    parser.add_argument("commands", nargs="+")
    arguments = parser.parse_args()
    shown = frames(arguments.commands, arguments.width)
    with open(arguments.output, "w") as file:
        file.write(draw(shown, arguments.width, arguments.title))


main()
