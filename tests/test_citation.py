"""What the documentation says to cite is what CITATION.cff says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _fields(text, pattern):
    return {
        name: value.strip().strip('"')
        for name, value in re.findall(pattern, text, flags=re.MULTILINE)
    }


def test_the_bibtex_of_the_documentation_is_that_of_the_citation_file():
    page = (ROOT / "docs" / "citing.md").read_text()
    software, paper = re.findall(r"^@\w+\{\w+,\n(.*?)^\}", page, flags=re.MULTILINE | re.DOTALL)
    bibtex = r"^  (\w+) = \{+(.*?)\}+,?$"
    citation = (ROOT / "CITATION.cff").read_text()
    own, _, cited = citation.partition("references:")
    cff = r"^[ -]*([\w-]+): (.+)$"
    own, cited = _fields(own, cff), _fields(cited, cff)
    software, paper = _fields(software, bibtex), _fields(paper, bibtex)
    for entry, source in ((software, own), (paper, cited)):
        assert entry["title"] == source["title"]
    assert (software["version"], software["date"]) == (own["version"], own["date-released"])
    assert (software["license"], software["author"]) == (own["license"], own["name"])
    authors = re.findall(r"family-names: (\w+)\n +given-names: (\w+)", citation)
    assert paper["author"] == " and ".join(", ".join(author) for author in authors)
    assert f"{paper['archiveprefix']}:{paper['eprint']}" == cited["value"]
    assert (paper["booktitle"], paper["volume"], paper["year"]) == (
        cited["collection-title"], cited["volume"], cited["year"])  # fmt: skip
