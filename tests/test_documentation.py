"""Every code block of README and of the documentation is run, or checked without running it.

- python: runs, the blocks of a page from top to bottom in one namespace and a folder of its own.
  Those of README are the tutorial's, and run there.
- text: is what the Python block above it prints, but for the digits.
- shell, console: the command line parses every ``sharpflow ...``; every ``make`` target is one.
- toml: is read and checked as a config, beside the modules that its page shows.
- pycon: runs as a doctest, where there are images to run it on.
- bibtex: is compared with CITATION.cff by ``tests/test_citation.py``.

There is no other kind. A pycon block that needs a run of minutes is named in ``NOT_RUN``; nothing
else is left out.
"""

import ast
import builtins
import doctest
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import nbformat
import pytest
import typer

from sharpflow.experiments import config, plots
from sharpflow.experiments.cli import app
from sharpflow.experiments.config.keys import KEYS

ROOT = Path(__file__).parents[1]
NOT_RUN = ('sf.open_run("runs/vgg")',)  # the run of vgg11-cifar10-small, minutes


def _load_pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = _load_pages()
TEXTS = {path.stem: path.read_text() for path in sorted(pages.DOCS.glob("*.md"))}
TEXTS["README"] = (ROOT / "README.md").read_text()
QUOTED = "README"  # whose Python blocks are the tutorial's, with what they print and draw


def _codes(name, *languages):
    return [block.code for block in pages.blocks(TEXTS[name]) if block.language in languages]


@pytest.fixture
def as_a_user(tmp_path, monkeypatch):
    """An empty folder, and promotion in jax as it is outside these tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["page"])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield tmp_path


RUNNING = [name for name in TEXTS if _codes(name, "python") and name not in (QUOTED, *pages.DRAWN)]


@pytest.mark.parametrize("name", RUNNING)
def test_the_code_of_a_page_runs_and_every_number_it_prints_was_found(name, as_a_user):
    for ran in pages.run(_codes(name, "python"), name):
        assert not re.search(r"\bnan\b", ran.printed.lower())


def test_the_notebook_is_the_tutorial_and_its_cells_run(as_a_user):
    stored = nbformat.read(pages.DOCS / "tutorial.ipynb", as_version=4)
    nbformat.validate(stored)
    made = pages.notebook(TEXTS["tutorial"])
    assert [(c.cell_type, c.source) for c in stored.cells] == [
        (c.cell_type, c.source) for c in made.cells
    ]
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    errors = []
    page = pages.python_blocks(TEXTS["tutorial"])
    for block, cell, ran in zip(page, cells, pages.run([c.source for c in cells]), strict=True):
        _is_what_the_page_shows(block, ran)
        assert _stored_text(cell) == (pages.printed_below(block) or "")
        assert _stored_pictures(cell) == len(block.pictures)
        if re.search(r"print\(.*final_relative_error", block.code):
            errors.append(float(ran.printed.split()[-1]))
    # 1 and 4 % when the page was made; as theory says at these ηλ of 1 to 2 · 10⁻³, with room for
    # the rounding of another machine
    assert len(errors) == 2 and max(errors) < 0.08


def test_the_gallery_draws_every_picture_it_shows_and_calls_every_plotting_function(as_a_user):
    page = pages.python_blocks(TEXTS["gallery"])
    codes = [block.code for block in page]
    for block, ran in zip(page, pages.run(codes, "gallery"), strict=True):
        _is_what_the_page_shows(block, ran)
    called = {node.func.attr for code in codes for node in ast.walk(ast.parse(code))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
    functions = {name for name in plots.__all__ if callable(getattr(plots, name))}
    assert functions <= called


def _is_what_the_page_shows(block, ran):
    """As many figures as there are pictures below, which are there; the printed words."""
    assert len(ran.figures) == len(block.pictures)
    assert all((pages.DOCS / picture).is_file() for picture in block.pictures)
    if (told := pages.printed_below(block)) is not None:
        assert _words(ran.printed) == _words(told)


def _words(printed):
    """What is printed but for digits, which rounding at the edge changes, and for spaces."""
    return re.sub(r"-?[\d.]+(e[+-]?\d+)?", "#", printed).split()


def _stored_text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def _stored_pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_readme_shows_what_the_tutorial_runs_prints_and_draws_and_stands_by_itself():
    tutorial = {block.code: block for block in pages.python_blocks(TEXTS["tutorial"])}
    quoted = pages.python_blocks(TEXTS[QUOTED])
    for block in quoted:
        source = tutorial[block.code]
        assert pages.printed_below(block) in (None, pages.printed_below(source))
    assert not _unbound("".join(block.code for block in quoted))
    drawn = {f"docs/{picture}" for block in tutorial.values() for picture in block.pictures}
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXTS[QUOTED])
    # by ``sharpflow validate``, and by ``make poster``
    by_hand = {"docs/figures/validation-mlp.png", "docs/figures/poster.png"}
    assert shown[0] in drawn and set(shown) - by_hand <= drawn
    assert TEXTS[QUOTED].count("\n") <= 100


def _unbound(code):
    """Names that a block uses and nothing in it binds."""
    bound, used = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.arg | ast.ExceptHandler):
            bound.add(node.arg if isinstance(node, ast.arg) else node.name)
    return used - bound


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_on_a_page_is_one_that_the_command_line_takes(name):
    # in blocks, and quoted within a sentence or a table
    blocks = "".join(_codes(name, "shell", "console")).splitlines()
    sentences = pages.FENCED.sub("", TEXTS[name])
    quoted = re.findall(r"`((?:\S+/)?sharpflow [a-z][^`]*)`", sentences)
    for line in [*blocks, *quoted]:
        # a script may run it in the background; a variable is a number or a path, and 1 is both
        line = re.sub(r"\$\w+", "1", line.removesuffix(" &"))
        words = shlex.split(line, comments=True)
        place = next((i for i, word in enumerate(words) if word.endswith("sharpflow")), None)
        if place is not None and words[0] != "export":
            _parse(words[place + 1 :])


def _parse(words):
    """Refuses, by an exception, what the command line would refuse before it does anything."""
    commands = typer.main.get_command(app).commands
    if not words or words[0] not in commands:
        raise ValueError(f"{words[:1]} is no command; there are {sorted(commands)}")
    commands[words[0]].make_context(words[0], list(words[1:])).close()


def test_a_command_that_the_command_line_does_not_take_would_be_found():
    with pytest.raises(ValueError):
        _parse(["runn", "x.toml"])
    for words in (["run", "x.toml", "--devices", "2"], ["plot"]):
        with pytest.raises(typer.BadParameter.__base__):
            _parse(words)


@pytest.mark.parametrize("name", TEXTS)
def test_every_make_target_on_a_page_is_one_of_the_makefile(name):
    rules = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = " ".join(rules).split()
    named = re.findall(r"(?:^ {0,4}|`)make ([a-z-]+)", TEXTS[name], flags=re.MULTILINE)
    assert set(named) <= set(targets)


CONFIGS = [name for name in TEXTS if _codes(name, "toml")]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_on_a_page_is_one_that_run_takes(name, tmp_path, monkeypatch):
    for number, code in enumerate(_codes(name, "toml")):
        for module in re.findall(r'"(\w+):\w+"', code):
            # all definitions of the page, which says which of them stand in that module
            definitions = [
                ast.unparse(node)
                for block in _codes(name, "python")
                for node in ast.parse(block).body
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
            ]
            (tmp_path / f"{module}.py").write_text("\n".join(definitions))
            monkeypatch.delitem(sys.modules, module, raising=False)
        path = tmp_path / f"{number}.toml"
        path.write_text(code)
        assert config.load(path).source == str(path)


def test_the_tables_of_quantities_are_those_of_the_package():
    text = TEXTS[pages.QUANTITIES]
    assert text == pages.with_quantities(text)
    assert len(pages.TABLE.findall(text)) == 11


def test_the_table_of_keys_has_every_key_of_a_config():
    table = TEXTS["howto-grids"].split("### The keys of a config")[1].split("\n### ")[0]
    listed = re.findall(r"^\| `\[{0,2}(\w+)\]{0,2}` \|", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(KEYS)


def test_the_examples_of_cifar_print_what_they_say(shared_data, monkeypatch):
    monkeypatch.chdir(shared_data)  # the folder above data/
    import sharpflow as sf

    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    codes = [code for name in TEXTS for code in _codes(name, "pycon")]
    run = [code for code in codes if not any(part in code for part in NOT_RUN)]
    assert len(codes) - len(run) == len(NOT_RUN)
    for code in run:
        runner.run(parser.get_doctest(code, {"sf": sf}, "page", None, 0))
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", TEXTS)
def test_every_block_is_of_a_kind_that_is_run_or_checked(name):
    kinds = {"python", "shell", "console", "toml", "pycon", "text", "bibtex"}
    assert {block.language for block in pages.blocks(TEXTS[name])} <= kinds
    assert TEXTS[name].count("```") == 2 * len(pages.blocks(TEXTS[name]))


def test_every_file_that_the_readme_links_to_is_there():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", TEXTS["README"]):
        assert (ROOT / link).exists()


def test_every_page_that_a_docstring_names_is_there():
    named = {
        page
        for path in (ROOT / "sharpflow").rglob("*.py")
        for page in re.findall(r"docs/([\w-]+\.md)", path.read_text())
    }
    assert named and all((pages.DOCS / page).is_file() for page in named)
