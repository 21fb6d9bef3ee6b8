"""What the documents say is there is there: files, links, commands and their flags, and the README's tree."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("weights/*.md")])
# A line of the tree: indent, name, half a line of text.
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.]+/?) +(?P<text>\S.*)$")


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
def test_command_lines_in_documents_name_scripts_and_flags_that_exist(words):
    script = ROOT / words[0]
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


def tree_in_readme() -> dict[str, str]:
    """Path to text, of the block after the mark."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", text, flags=re.S).group(1)
    folders, found = [], {}
    for line in block.splitlines():
        entry = TREE_LINE.match(line)
        assert entry, f"no path and text: {line!r}"
        depth = len(entry["indent"]) // 2
        folders = [*folders[:depth], entry["name"].rstrip("/")]
        found["/".join(folders) + ("/" if entry["name"].endswith("/") else "")] = entry["text"]
    return found


def test_readmes_tree_is_the_tree():
    found = [path for folder in ("LTX_2_MLX", "scripts") for path in (ROOT / folder).rglob("*.py")]
    modules = {path.relative_to(ROOT).as_posix() for path in found if not path.name.startswith("_")}
    assert {path for path in tree_in_readme() if path.endswith(".py")} == modules


def test_readmes_tree_names_only_what_is_there():
    assert [path for path in tree_in_readme() if not (ROOT / path).exists()] == []
