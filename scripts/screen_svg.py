#!/usr/bin/env python3
"""Draws what `tmux capture-pane -p -e` prints, with its colours, as SVG: python3 scripts/screen_svg.py < screen > screen.svg"""

import re
import sys
from html import escape

COLOURS = ["#1e1e2e", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#cba6f7", "#94e2d5", "#bac2de"]
BRIGHT = ["#6c7086", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#cba6f7", "#94e2d5", "#ffffff"]
WIDTH, HEIGHT = 8.43, 18


def runs(line):
    """Pieces of a line with their foreground, background and weight."""
    fg, bg, bold, at, column = None, None, False, 0, 0
    for match in re.finditer(r"\x1b\[([0-9;]*)m|([^\x1b]+)", line):
        if match.group(2) is not None:
            yield column, match.group(2), fg, bg, bold
            column += len(match.group(2))
            continue
        codes = [int(code or 0) for code in match.group(1).split(";")]
        while codes:
            code = codes.pop(0)
            if code in (38, 48) and codes[:1] == [5] and len(codes) > 1:
                colour = (COLOURS + BRIGHT)[codes[1] % 16]
                codes = codes[2:]
                fg, bg = (colour, bg) if code == 38 else (fg, colour)
            elif code == 0:
                fg, bg, bold = None, None, False
            elif code == 1:
                bold = True
            elif code == 22:
                bold = False
            elif 30 <= code <= 37:
                fg = COLOURS[code - 30]
            elif code == 39:
                fg = None
            elif 40 <= code <= 47:
                bg = COLOURS[code - 40]
            elif code == 49:
                bg = None
            elif 90 <= code <= 97:
                fg = BRIGHT[code - 90]
            elif 100 <= code <= 107:
                bg = BRIGHT[code - 100]


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    height = len(lines) * HEIGHT + 20
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="700" height="{height}" viewBox="0 0 700 {height}">')
    print('<rect width="100%" height="100%" rx="6" fill="#1e1e2e"/>')
    print('<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#e0e0e0">')
    for row, line in enumerate(lines):
        y = row * HEIGHT + 24
        for column, text, fg, bg, bold in runs(line):
            x = 12 + column * WIDTH
            if bg:
                print(f'<rect x="{x:.1f}" y="{y - 14}" width="{len(text) * WIDTH:.1f}" height="{HEIGHT}" fill="{bg}"/>')
            if not text.strip():
                continue
            style = (f' fill="{fg}"' if fg else "") + (' font-weight="bold"' if bold else "")
            length = f' textLength="{len(text) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
            print(f'<text x="{x:.1f}" y="{y}" xml:space="preserve"{length}{style}>{escape(text)}</text>')
    print("</g></svg>")


if __name__ == "__main__":
    main()
