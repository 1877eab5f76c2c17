"""Adapts the pages to the site: they are plain Markdown, and their links also work in the repository.

- Some Markdown files outside of docs/ are pages of the site, too.
- A link to any other file outside of docs/ becomes its text, since the site has no such file.
- A comment `<!-- reference: NAME -->` becomes the documentation of a Python name, which mkdocstrings renders.
"""

import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "cluster/README.md": "cluster-files.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # path in the repository: path in the site
_IN_REPOSITORY = {page: path for path, page in PAGES.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"^<!-- reference: (\S+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside of docs/."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=path))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrites the links of a page, and inserts references."""
    path = _IN_REPOSITORY.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _on_the_site(link, path), part) for part in parts[::2]]
    return _REFERENCE.sub(r"::: \1", "".join(parts))


def _on_the_site(link: re.Match[str], source: str) -> str:
    """Returns a link of the file `source`, a path in the repository, as it must be on the site."""
    if not link["path"] or "://" in link["path"]:
        return link[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
    if target not in PAGES and not target.startswith("docs/"):
        return link["text"]
    page = _site_path(target)
    relative = posixpath.relpath(page, posixpath.dirname(_site_path(source)) or ".")
    return f"{link['image']}[{link['text']}]({relative}{link['anchor'] or ''})"


def _site_path(path: str) -> str:
    return PAGES.get(path, path.removeprefix("docs/"))
