"""A page as one HTML file: it asks for nothing, which its content policy enforces; the same input is the same bytes.

Every text is escaped where it becomes HTML; figures come as HTML of our own, see `Rendered`.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files

from patchwork.figures.rendered import Claim, Rendered

NUM_CLAIMS = 5


@dataclass(frozen=True)
class PageSection:
    """A section of a page.

    Attributes:
        name: its anchor.
        title: its heading, plain text.
        content: the figure, or plain text without a period that says why there is none: these are listed at the end.
        command: the command line that makes it again; empty if there is none.
    """

    name: str
    title: str
    content: Rendered | str
    command: str = ""


def page_html(title: str, subtitle: str, sections: Sequence[PageSection]) -> bytes:
    """Return a page.

    Args:
        title: plain text.
        subtitle: plain text below it.
        sections: in their order; the page begins with the claims of their figures, those of the smallest rank.
    """
    style, script = read_asset("page.css"), read_asset("page.js")
    script_hash = b64encode(sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = [each for each in sections if isinstance(each.content, Rendered)]
    shown += left_out_section([each for each in sections if isinstance(each.content, str)])
    links = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in shown)
    body = "".join(section_html(each) for each in shown)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><div><h1>{escape(title)}</h1><p class="muted">{escape(subtitle)}</p></div>'
        '<button type="button" class="script" data-theme-button aria-label="Switch between light and dark"></button>'
        f"</header>\n<main>\n{claims_html(sections)}\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n{body}</main>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    ).encode()


def left_out_section(sections: Sequence[PageSection]) -> list[PageSection]:
    """Return a section that lists why others have no figure, if there are such."""
    if not sections:
        return []
    items = "".join(f"<li>{escape(each.title)}: {escape(str(each.content))}</li>" for each in sections)
    return [PageSection("left-out", "Not shown", Rendered(f"<ul>{items}</ul>", ""))]


def read_asset(name: str) -> str:
    return files("patchwork.report").joinpath(name).read_text(encoding="utf-8")


def claims_html(sections: Sequence[PageSection]) -> str:
    """Return the first claims of all figures as a list, each with a link to its figure."""
    found: list[tuple[Claim, PageSection]] = []
    for section in sections:
        if isinstance(section.content, Rendered):
            found += [(claim, section) for claim in section.content.claims]
    found.sort(key=lambda each: each[0].rank)
    items = [
        f'<li>{escape(claim.text)} <small><a href="#{section.name}">figure</a>{numbers_link(section)}</small></li>'
        for claim, section in found[:NUM_CLAIMS]
    ]
    return f'<ol class="claims">{"".join(items)}</ol>' if items else ""


def numbers_link(section: PageSection) -> str:
    """Return the links to the numbers and the command of a section, if it has them."""
    links = ""
    if isinstance(section.content, Rendered) and section.content.table:
        links += f' · <a href="#{section.name}-numbers">numbers</a>'
    return links + (f' · <a href="#{section.name}-command">command</a>' if section.command else "")


def section_html(section: PageSection) -> str:
    """Return a section with its figure, caption, numbers and command."""
    opening = f'<section id="{section.name}"><h2>{escape(section.title)}</h2>'
    figure = section.content
    assert isinstance(figure, Rendered)
    parts = [f"{opening}<figure>{figure.html}"]
    parts.append(f"<figcaption>{escape(figure.caption)}</figcaption></figure>" if figure.caption else "</figure>")
    if figure.table:
        parts.append(f'<details id="{section.name}-numbers"><summary>Numbers</summary>{figure.table}</details>')
    if section.command:
        parts.append(f'<p id="{section.name}-command" class="muted"><code>{escape(section.command)}</code></p>')
    return f"{''.join(parts)}</section>\n"
