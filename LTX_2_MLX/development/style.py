"""Offences against the house's style: words, openings of module docstrings, and functions that are too long."""

import ast
import io
import re
import statistics
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN_WORDS = re.compile(
    r"(?<![a-z])(films?|pictures?|roads?|hears?|heard|told|lends?|lent|firmly|nobody|voices?|cures?|cured)(?![a-z])",
    re.IGNORECASE,
)
# Data, not prose: words of the captions that the tokenizer is trained on, and the reference's negative prompt.
EXEMPT = {"LTX_2_MLX/training/captions.py", "LTX_2_MLX/pipelines/generation/files.py"}
# The public calls declare every option as a parameter.
DECLARED_CALLS = {"LTX_2_MLX/api.py"}
# A module docstring says what the module provides; it does not begin with a question word.
FORBIDDEN_OPENINGS = ("What", "Who", "Which", "How", "Where", "When")
MOST_TOKENS = 400
MOST_TOKENS_OF_NINE_IN_TEN = 200
# Tokens that say nothing about a function's length.
SILENT_TOKENS = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip


@dataclass(frozen=True)
class Offence:
    """One line that breaks a rule."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


def modules() -> list[Path]:
    """All Python files of the product: package, scripts and examples."""
    folders = ("LTX_2_MLX", "scripts", "examples")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__))


def pages() -> list[Path]:
    """All pages and notebooks."""
    below = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb"), *(ROOT / "weights").glob("*.md")]
    return sorted([*ROOT.glob("*.md"), *below])


def word_offences() -> Iterator[Offence]:
    """Forbidden words, anywhere in a product's file: names, strings, comments, pages."""
    for path in [*modules(), *pages()]:
        if path.relative_to(ROOT).as_posix() in EXEMPT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for match in FORBIDDEN_WORDS.finditer(line):
                yield Offence(path, number, f"{match[0]!r} in: {line.strip()[:100]}")


def opening_offences() -> Iterator[Offence]:
    """Module docstrings that begin with a question word."""
    for path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if docstring.partition(" ")[0] in FORBIDDEN_OPENINGS:
            yield Offence(path, 1, f"opens with a question word: {docstring.splitlines()[0]}")


def token_offences() -> Iterator[Offence]:
    """Functions with more than 400 tokens, and one entry if nine in ten do not stay within 200."""
    sizes = list(function_sizes())
    for offence, tokens in sizes:
        if tokens > MOST_TOKENS:
            yield offence
    ninth = statistics.quantiles([tokens for _, tokens in sizes], n=10)[-1]
    if ninth > MOST_TOKENS_OF_NINE_IN_TEN:
        yield Offence(ROOT / "LTX_2_MLX", 0, f"nine functions in ten have up to {ninth:.0f} tokens")


def function_sizes() -> Iterator[tuple[Offence, int]]:
    """Every function of the product with its number of tokens, docstring and comments left out."""
    for path in modules():
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                declared = path.relative_to(ROOT).as_posix() in DECLARED_CALLS
                tokens = tokens_of(node, lines, parameters=not declared)
                yield Offence(path, node.lineno, f"{node.name} has {tokens} tokens"), tokens


def tokens_of(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], *, parameters: bool = True) -> int:
    """Tokens of a function's code, with or without its parameters."""
    first = node.lineno if parameters else node.body[0].lineno
    text = textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    tokens = [
        token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in SILENT_TOKENS
    ]
    return len(tokens) - (ast.get_docstring(node) is not None)
