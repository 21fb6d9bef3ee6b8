"""What the documents say is there is there: files, links, commands and their flags, and the trees."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/*.md")])


def code_blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.S | re.M)


def command_lines(document: Path) -> list[list[str]]:
    """Words of every line that runs one of the scripts, from the script's name on."""
    text = "\n".join(code_blocks(document, "bash")).replace("\\\n", " ")
    lines = [line[line.index("scripts/") :] for line in text.splitlines() if "scripts/" in line]
    return [shlex.split(line, comments=True) for line in lines]


COMMANDS = [
    pytest.param(words, id=f"{document.name}-{n}-{Path(words[0]).stem}")
    for document in DOCUMENTS
    for n, words in enumerate(command_lines(document))
]


def flags_of(script: Path, subcommand: str | None) -> set[str]:
    spec = importlib.util.spec_from_file_location(f"documented_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command()(module.main)
    command = typer.main.get_command(app)
    command = command.commands[subcommand] if hasattr(command, "commands") else command
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("words", COMMANDS)
def test_command_lines_in_documents_name_scripts_and_flags_that_exist(words, monkeypatch):
    script = ROOT / words[0]
    # Where a script looks for the modules beside it.
    monkeypatch.syspath_prepend(script.parent)
    assert script.is_file()
    given = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    subcommand = next((word for word in words[1:] if not word.startswith("-")), None)
    assert given <= flags_of(script, subcommand)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document):
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:docs|scripts|tests|LTX_2_MLX|weights/demo)/[\w./-]*)`", text))
    linked = {link for link in re.findall(r"\]\(([^)#:]+)\)", text)} | set(re.findall(r'src="([^":]+)"', text))
    missing = {name for name in named if not (ROOT / name).exists()}
    missing |= {link for link in linked if not (document.parent / link).exists()}
    assert not missing


@pytest.mark.parametrize("script", ["write_tree.py", "write_options.py", "write_formats.py"])
def test_printed_pages_are_up_to_date(script):
    done = subprocess.run([sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_pictures_are_there_small_and_described(document):
    for words, name in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        assert len(words) >= 20, f"{name}: say what it shows"
        assert (document.parent / name).stat().st_size < 150_000


def test_readme_names_every_room():
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)[1]
    rooms = {path.parent.name for path in (ROOT / "LTX_2_MLX").glob("*/__init__.py")}
    named = set(re.findall(r"(\w+)/", tree))
    assert rooms <= named
    assert {name for name in named if not list(ROOT.glob(f"**/{name}/"))} == set()
