"""A page asks for nothing, is the same bytes, and shows hostile texts as text."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from patchwork.figures.rendered import Claim, Rendered
from patchwork.report.page import NUM_CLAIMS, PageSection, page_html

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def make_page(text: str = "plain") -> bytes:
    claims = tuple(Claim(f"claim {rank} {text}", (), rank=rank) for rank in (7, 3, 5, 1, 9, 8, 2))
    figure = Rendered("<table></table>", f"caption {text}", "<table id='t'></table>", claims)
    sections = [
        PageSection("one", f"One {text}", figure, f"patchwork report run={text}"),
        PageSection("two", "Two", text),
    ]
    return page_html(f"title {text}", f"subtitle {text}", sections)


def test_the_same_page_is_the_same_bytes() -> None:
    assert make_page() == make_page()


def test_page_refers_to_nothing_outside_and_allows_its_own_script_alone() -> None:
    page = make_page()
    parsed = Parsed(page)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    (policy,) = [a["content"] for tag, a in parsed.tags if tag == "meta" and a.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", page.decode(), re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_texts_are_text() -> None:
    plain, hostile = Parsed(make_page()), Parsed(make_page(HOSTILE))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.text.count(HOSTILE) == plain.text.count("plain")


def test_what_is_not_shown_is_listed_once_at_the_end() -> None:
    parsed = Parsed(make_page("it does not apply"))
    assert "Two: it does not apply" in parsed.text
    assert [a["id"] for tag, a in parsed.tags if tag == "section"] == ["one", "left-out"]


def test_page_begins_with_the_claims_of_the_smallest_rank() -> None:
    text = Parsed(make_page()).text
    found = re.findall(r"claim (\d)", text)
    assert found == ["1", "2", "3", "5", "7"]
    assert len(found) == NUM_CLAIMS
    assert text.index("claim 1") < text.index("caption plain")


def test_every_link_leads_to_an_element() -> None:
    parsed = Parsed(make_page())
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = [(attributes["href"] or "")[1:] for tag, attributes in parsed.tags if tag == "a"]
    assert {"one", "one-numbers", "one-command", "left-out"} <= {*links}
    assert {*links} <= ids
