"""The documentation as a whole: links, generated pages, drawings, error messages, and the site."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest
from pages import DOCS, LINKED, PAGES, README, ROOT, anchors, fences, links, prose, sentences

MOST_LINES = 120  # of the README
SENTENCE = 50  # characters; shorter sentences may occur on several pages


def script(name):
    """Returns a script of docs/tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_their_anchors_exist(page):
    broken = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_page_is_in_the_navigation(page):
    assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_of_a_table_have_as_many_cells_as_its_heading(page):
    """A bar in a cell, also in code, must be escaped; otherwise it starts another cell."""
    wrong = []
    for table in re.findall(r"(?:^\|.*\|$\n?){2,}", prose(page), re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        wrong += [row for row, count in zip(table.splitlines(), cells, strict=True) if count != cells[0]]
    assert wrong == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_commands_and_items_of_lists_are_on_lines_of_their_own(page):
    comments = [line.partition(" # ")[2] for block in fences(page, "sh") for line in block.splitlines()]
    assert [comment for comment in comments if re.search("(?<!`)vaedist ", comment)] == []
    assert [text for text in prose(page).split("\n\n") if re.match(r"1\. .*\S 2\. ", text, re.DOTALL)] == []
    assert re.findall(r".*[;:.] - .*", prose(page)) == []


def test_no_sentence_is_on_two_pages():
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    found = Counter(sentence for page in pages for sentence in set(sentences(page)) if len(sentence) >= SENTENCE)
    assert [sentence for sentence, times in found.items() if times > 1] == []


def test_the_reference_pages_are_generated_from_the_code():
    stale = [path.name for path, text in script("generate").pages().items() if path.read_text() != text]
    assert stale == [], "run docs/tools/generate.py"


def test_the_drawings_are_those_of_their_script():
    stale = [path.name for path, text in script("drawings").drawings().items() if path.read_text() != text]
    assert stale == [], "run docs/tools/drawings.py"


@cache
def literals():
    """Returns the text constants of the package, with an ellipsis in place of values."""
    found = set()
    for file in (ROOT / "vaedist").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.add(re.sub("…+", "…", "".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def messages():
    """Returns the messages that the pages on errors and faults quote."""
    rows = re.findall(r"^\| [^|]* \|([^|]*)\|", (DOCS / "fault-tolerance.md").read_text(), re.MULTILINE)
    quoted = [code for cell in rows for code in re.findall(r"`([^`]*)`", cell)]
    assert len(quoted) >= 8
    return [" ".join(block.split()) for block in fences(DOCS / "troubleshooting.md", "text")] + quoted


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_of_the_code(message):
    assert len(message.replace("…", "")) > 10
    assert any(message in literal for literal in literals())


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_loads_nothing_from_other_servers(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    html = {file.name: file.read_text() for file in tmp_path.rglob("*.html")}
    assert {"index.html", "contributing.html", "cluster-files.html"} <= html.keys()
    assert 'id="vaedist.Run.evaluate"' in html["python-api.html"]
    loaded = r'<(?:script|img|iframe|link(?! rel="canonical"))[^>]*(?:src|href)="(?:https?:)?//[^"]*"'
    assert {name: found for name, text in html.items() if (found := re.findall(loaded, text))} == {}
