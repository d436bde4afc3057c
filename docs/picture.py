"""Draw docs/picture.svg, the picture of the front page: python docs/picture.py"""

from pathlib import Path

WIDTH, HEIGHT = 860, 250
INK, PAPER = "#1f2933", "#ffffff"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def box(x: int, y: int, width: int, height: int, colour: str, title: str, *lines: str) -> str:
    """A rounded box with a title and lines of text below it."""
    middle = x + width // 2
    texts = [f"<text x='{middle}' y='{y + 26}' font-size='16' font-weight='bold'>{title}</text>"]
    texts += [f"<text x='{middle}' y='{y + 48 + 19 * n}' font-size='13'>{line}</text>" for n, line in enumerate(lines)]
    frame = f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='10' fill='{colour}' stroke='{INK}'/>"
    return "\n".join([frame, *texts])


def arrow(x: int, y: int, to_x: int, to_y: int, text: str = "", *, above: bool = True) -> str:
    """An arrow, with a text over or under its middle."""
    line = (
        f"<line x1='{x}' y1='{y}' x2='{to_x}' y2='{to_y}' stroke='{INK}' stroke-width='1.5' marker-end='url(#head)'/>"
    )
    place = (y + to_y) // 2 + (-8 if above else 18)
    return line + (f"\n<text x='{(x + to_x) // 2}' y='{place}' font-size='13'>{text}</text>" if text else "")


def picture() -> str:
    """The whole picture as SVG."""
    parts = [
        box(20, 70, 150, 110, "#fde8d0", "your code", "add.fire(1, 2)", "run.wait()"),
        arrow(170, 105, 280, 105, "fire"),
        arrow(280, 150, 170, 150, "result", above=False),
        box(280, 70, 170, 110, "#e4ecf7", "store", "SQLite, Redis,", "MongoDB or", "FoundationDB"),
        arrow(450, 105, 548, 105, "claim"),
        arrow(548, 150, 450, 150, "commit", above=False),
        box(548, 70, 136, 110, "#dff2e1", "pool", "skunq work", "leases, timeouts,", "restarts"),
        *(arrow(684, 125, 740, y, "") for y in (50, 125, 200)),
        *(box(740, y - 30, 100, 60, "#fdf6d3", "worker", "one process") for y in (50, 125, 200)),
    ]
    head = (
        "<defs><marker id='head' markerWidth='10' markerHeight='8' refX='9' refY='4' orient='auto'>"
        f"<path d='M0,0 L10,4 L0,8 z' fill='{INK}'/></marker></defs>"
    )
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' "
        f"role='img' aria-label='Your code, a store, a pool and its worker processes'>\n{head}\n"
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='{PAPER}'/>\n"
        f"<g {FONT} fill='{INK}' text-anchor='middle'>\n{body}\n</g>\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("picture.svg").write_text(picture())
