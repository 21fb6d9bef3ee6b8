"""What can do harm is done in one function each: opening, writing, printing."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "LTX_2_MLX"
# Developers' rooms, which read no stranger's files.
EXEMPT = ("training/", "development/")
# Call -> the modules that may make it.
DOORS = {
    "av.open": ("media/source.py", "media/writer.py", "media/tracks.py", "media/sound.py"),
    "Image.open": ("media/image_formats.py",),
    "os.replace": ("files.py",),
    "os.rename": (),
    # A scratch folder of a golden case.
    "shutil.copy": ("verify/ltx_text.py",),
    "shutil.copyfile": (),
    "shutil.move": (),
    # Encoded into a temporary file of the atomic door.
    ".write_bytes": ("files.py", "media/image.py"),
    ".write_text": (),
    "open for writing": (
        "checkpoints/writer.py",
        "runtime/job.py",
        "pipelines/generation/embeddings.py",
        # A download continues in the file of its last attempt, in the user's cache.
        "checkpoints/transfer.py",
    ),
    # Numbers, paths and JSON from files; cases of this repository are its own.
    "json.loads": ("verify/bands.py", "verify/case.py", "verify/run.py"),
    "json.load": (),
    "pickle.load": (),
    "pickle.loads": (),
    "print": (),
    "typer.echo": ("cli/echo.py",),
    # Bars and tables.
    "Console": ("cli/echo.py", "runtime/progress.py", "cli/download_weights.py"),
}


def names(call: ast.Call) -> list[str]:
    """The names under which a call stands in the table."""
    function = ast.unparse(call.func)
    found = [function, f".{function.rpartition('.')[2]}"]
    is_open = found[1] == ".open"
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    modes += [word.value.value for word in call.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)]
    if is_open and any(isinstance(mode, str) and len(mode) < 4 and set(mode) & set("wax+") for mode in modes):
        found.append("open for writing")
    return found


def offences(source: str, module: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        f"{module}:{call.lineno}: {name}"
        for call in calls
        for name in names(call)
        if name in DOORS
        and module not in DOORS[name]
        # PyAV's own door stands in the table.
        and not (name == "open for writing" and ast.unparse(call.func) == "av.open")
    ]


def test_no_module_opens_writes_or_prints_past_the_doors():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        if not module.startswith(EXEMPT):
            found += offences(path.read_text(encoding="utf-8"), module)
    assert found == []


def test_the_walk_sees_each_kind_of_call():
    source = "av.open(a)\nImage.open(b)\nopen(c, 'w')\np.open('ab')\np.write_text('')\nos.replace(a, b)\nprint(1)\n"
    lines = [offence.split(":")[1] for offence in offences(source + "typer.echo(1)\nConsole()\njson.loads(d)", "x.py")]
    assert sorted(set(map(int, lines))) == list(range(1, 11))
