"""Build the manual as a site: python docs/build.py FOLDER

The pages are written to be read in the repository too, so their links are those of the repository. Here the README
becomes the first page, links to files outside of docs/ are turned to their copies, and Sphinx does the rest; a warning
is an error. Beside the pages lie their sources and llms.txt, which lists them for programs that read.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

GUIDE = {
    "Guide": [
        "start",
        "results",
        "later",
        "spacing",
        "limits",
        "dependencies",
        "routes",
        "failures",
        "cancel",
        "workers",
        "runs",
        "desk",
        "schedules",
        "around",
        "testing",
        "typing",
    ],
    "Reference": [
        "options",
        "stores",
        "promises",
        "security",
        "production",
        "monitoring",
        "troubleshooting",
        "glossary",
        "api",
    ],
    "Recipes": ["fastapi", "flask", "django", "notebook", "script", "opentelemetry", "sentry"],
    "Coming from": ["from_celery", "from_rq", "from_arq", "from_python_gearman"],
    "More": ["spool", "gearman", "cache", "sources"],
    "The project": ["comparison", "measurements", "changes", "contributing"],
}
"""Every page but the first, by the heading it stands under."""

COPIES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "bench/RESULTS.md": "measurements.md",
    "compose.yaml": "compose.yaml",
    "LICENSE": "LICENSE",
}
"""What lies outside of docs/, and what it is called in the site."""


def relinked(text: str, folder: Path) -> str:
    """The text of a page with its links turned from the repository, where it lies in a folder, to the site."""

    def turned(found: re.Match[str]) -> str:
        target = (folder / found["target"]).resolve()
        if not target.is_relative_to(ROOT):
            return found[0]
        name = target.relative_to(ROOT).as_posix()
        return f"]({COPIES.get(name, name.removeprefix('docs/'))}{found['anchor'] or ''})"

    return re.sub(
        r"\]\((?!https?:|#)(?P<target>[\w./-]+\.\w+|LICENSE|(?:\.\./)+LICENSE)(?P<anchor>#[\w-]+)?\)", turned, text
    )


def headings(source: Path) -> dict[str, list[str]]:
    """The pages that are there by their heading; one that GUIDE does not know stands under the last."""
    there = {page.stem for page in source.iterdir() if page.suffix in (".md", ".rst")} - {"index"}
    found = {heading: [name for name in pages if name in there] for heading, pages in GUIDE.items()}
    found["The project"] += sorted(there - {name for pages in found.values() for name in pages})
    return found


def gather(source: Path) -> None:
    """Copy what Sphinx reads into one folder, as it is called in the site."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(DOCS / "conf.py", source)
    for page in source.glob("*.md"):
        page.write_text(relinked(page.read_text(), DOCS))
    for original, name in COPIES.items():
        text = (ROOT / original).read_text()
        (source / name).write_text(relinked(text, (ROOT / original).parent) if name.endswith(".md") else text)
    contents = "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n" + "\n".join(pages) + "\n```\n"
        for heading, pages in headings(source).items()
    )
    with (source / "index.md").open("a") as index:
        index.write(contents)


def first_sentence(page: Path) -> tuple[str, str]:
    """The title of a page, and the first sentence of its prose, on one line."""
    title, _, rest = page.read_text().partition("\n")
    prose = next((part for part in rest.split("\n\n") if re.match(r"\s*(?!```)[\w*`]", part)), "")
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(prose.split()))
    return title.lstrip("# "), re.split(r"(?<=\.) ", plain, maxsplit=1)[0]


def llms(source: Path) -> str:
    """The text of llms.txt (llmstxt.org): what this is, and where each page is as Markdown."""
    title, sentence = first_sentence(source / "index.md")
    lines = [f"# {title}", "", f"> {sentence}", ""]
    for heading, pages in headings(source).items():
        lines += [f"## {heading}", ""]
        for name in pages:
            if (source / f"{name}.md").exists():
                title, sentence = first_sentence(source / f"{name}.md")
                lines.append(f"- [{title}]({name}.md): {sentence}")
        lines.append("")
    return "\n".join(lines)


def main(target: Path) -> int:
    """Build the site; gives the exit code of Sphinx."""
    from sphinx.cmd.build import main as sphinx

    source = target.with_name(f"{target.name}-source")
    shutil.rmtree(target, ignore_errors=True)
    gather(source)
    if code := sphinx(["-q", "-W", "--keep-going", "-d", f"{source}/.doctrees", str(source), str(target)]):
        return code
    for page in source.glob("*.md"):
        shutil.copy(page, target)
    (target / "llms.txt").write_text(llms(source))
    print(f"the manual is in {target}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
