#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs commands in a terminal and draws what it showed in the end as an SVG: the picture in README.md.

usage, in an empty folder, with the programs in PATH:
  record.py OUT.svg [--width 100] 'command' 'command' …
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


def record(command, width):
    """The bytes that a command wrote to a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = dict(os.environ, TERM="xterm", NO_COLOR="1")
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the last writer is gone
            part = b""
        if not part:
            break
        output += part
    if process.wait() != 0:
        sys.exit(f"{command}: exit code {process.returncode}\n{output.decode()}")
    return output.decode("utf-8", "replace")


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


def draw(lines, width):
    """An SVG; lines are (text, is a command)."""
    advance, height, margin = 8.4, 19, 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * advance + 2 * margin:.0f}" '
        f'height="{len(lines) * height + 2 * margin + 4}" font-family="Menlo, Consolas, DejaVu Sans Mono, monospace" '
        'font-size="14">',
        '<rect width="100%" height="100%" rx="8" fill="#1d2027"/>',
    ]
    for number, (text, is_command) in enumerate(lines):
        y = margin + height * (number + 1) - 4
        colour = "#8fd694" if is_command else "#d8dee9"
        # The length is given, so that any monospaced font fills the same place.
        length = f' textLength="{len(text) * advance:.1f}" lengthAdjust="spacingAndGlyphs"' if text else ""
        parts.append(f'<text x="{margin}" y="{y}" fill="{colour}" xml:space="preserve"{length}>{html.escape(text)}</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("commands", nargs="+")
    arguments = parser.parse_args()
    lines = []
    for command in arguments.commands:
        if lines:
            lines.append(("", False))
        lines += [(line, True) for line in screen("$ " + command, arguments.width)]
        lines += [(line, False) for line in screen(record(command, arguments.width), arguments.width)]
    with open(arguments.output, "w") as file:
        file.write(draw(lines, arguments.width))


main()
