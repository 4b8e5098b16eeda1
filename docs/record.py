"""Runs a command in a terminal of its own and draws the final screen as an SVG.

    python docs/record.py docs/quickstart.svg -- target/release/maqam train curricula/quickstart.yaml      # needs pyte 0.8
"""

import fcntl
import html
import os
import pty
import struct
import subprocess
import sys
import termios

import pyte

COLUMNS, ROWS = 118, 60
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 7.8, 17, 16
PROMPT = "$ "


def screen_of(command: list[str]) -> list[str]:
    """The lines on the screen after the command has ended, without the empty ones at the end."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, env={**os.environ, "TERM": "xterm-256color"})
    os.close(theirs)
    while True:
        try:
            read = os.read(ours, 1 << 16)
        except OSError:  # The other end is closed.
            break
        if not read:
            break
        stream.feed(read)
    if process.wait() != 0:
        sys.exit(f"the command ended with {process.returncode}:\n" + "\n".join(screen.display))
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def svg(lines: list[str]) -> str:
    """The lines as light text on a dark card; the first is the command."""
    width = MARGIN * 2 + CHAR_WIDTH * (max(map(len, lines)) + 4)
    height = MARGIN * 2 + LINE_HEIGHT * len(lines)
    rows = []
    for i, line in enumerate(lines):
        colour = "#7ee787" if line.startswith(PROMPT) else "#e6edf3"
        y = MARGIN + LINE_HEIGHT * (i + 0.75)
        rows.append(f'<text x="{MARGIN}" y="{y:.1f}" fill="{colour}" xml:space="preserve" textLength="{CHAR_WIDTH * len(line):.1f}" lengthAdjust="spacingAndGlyphs">{html.escape(line)}</text>')
    font = "font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"13\""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" {font}>\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


def main() -> None:
    out, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    typed = PROMPT + " ".join([os.path.basename(command[0]), *command[1:]])
    with open(out, "w", encoding="utf-8") as file:
        file.write(svg([typed, *screen_of(command)]))


if __name__ == "__main__":
    main()
