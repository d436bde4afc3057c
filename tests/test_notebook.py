"""The cells of docs/notebook.md, run as a notebook by a kernel, beside the workers that the page starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pools import LIMIT
from test_docs import PRINT, ROOT, run_blocks, workers_beside

PAGE = ROOT / "docs" / "notebook.md"
EXECUTE = """
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read("lab.ipynb", 4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
nbformat.write(notebook, "lab.ipynb")
"""


def test_every_cell_of_the_notebook_prints_what_its_comments_say(tmp_path: Path) -> None:
    cells = [part.text for part in run_blocks(PAGE, "python") if part.comment == "cell"]
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
            for n, text in enumerate(cells)
        ],
    }
    (tmp_path / "lab.ipynb").write_text(json.dumps(notebook))

    with workers_beside(PAGE, tmp_path):
        said = subprocess.run(
            [sys.executable, "-c", EXECUTE], cwd=tmp_path, capture_output=True, text=True, timeout=4 * LIMIT
        )

    assert said.returncode == 0, said.stderr
    ran = json.loads((tmp_path / "lab.ipynb").read_text())["cells"]
    printed = [
        "".join(text for out in cell["outputs"] if out.get("name") == "stdout" for text in out["text"]).splitlines()
        for cell in ran
    ]
    assert len(cells) == 3
    assert printed == [PRINT.findall(text) for text in cells]
