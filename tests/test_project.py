"""What the project promises about itself: its size, its public names, and what is imported when."""

import ast
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import minicnn

ROOT = Path(minicnn.__file__).resolve().parent.parent
PACKAGE = ROOT / "minicnn"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_TOKENS = 249_200


def python(code, **environment):
    """What a new process prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def names_of(sources):
    return [str(path.relative_to(ROOT)) for path in sources]


# --- size -----------------------------------------------------------------------------------------


def tokens_of(path):
    """The tokens of a file, without comments, docstrings, what only says where lines begin and end,
    and the commas that the formatter puts before a closing bracket. A formatted string is one, as
    it is before Python 3.12."""
    source = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(
            node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node):
            docstrings.add(node.body[0].value.lineno)
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    layout |= {tokenize.ENDMARKER, tokenize.ENCODING}
    tokens, inside = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        is_docstring = kind == "STRING" and token.start[0] in docstrings
        if inside == 0 and token.type not in layout and not is_docstring:
            tokens.append(token)
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
    return (
        sum(
            not (token.string == "," and after.string in {")", "]", "}"})
            for token, after in itertools.pairwise([*tokens, tokens[0]])
        )
        if tokens
        else 0
    )


def test_the_package_is_small():
    assert 20_000 < sum(map(tokens_of, SOURCES)) <= MOST_TOKENS


def test_no_file_is_longer_than_400_lines():
    long = [path for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > 400]
    assert names_of(long) == []


def test_the_metadata_say_who_made_it_and_what_it_runs_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == [{"name": "The minicnn developers"}]
    assert project["description"] and len(project["keywords"]) >= 3
    assert "urls" not in project  # until there are some
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert f">={versions[0]}" == project["requires-python"]


# --- names ----------------------------------------------------------------------------------------

# Words of the project's own for what the field has a word for: gradient, transpose, iteration, GPU,
# trajectory, shard.
BANNED = {"slope", "turn", "turned", "turns", "card", "cards", "way", "walk", "walked", "looks"}
BANNED |= {"judge", "blame", "lane_of", "doubtful", "whose", "ours", "clash", "ways", "laid"}
BANNED |= {"there", "told"}
ADMITTED = {"negative_slope"}  # the name of PyTorch's argument


def words_of(path):
    """The words of the identifiers in a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.NAME and token.string not in ADMITTED:
            yield from re.split(r"_|(?<=[a-z])(?=[A-Z])", token.string)


def test_names_use_the_words_of_the_field():
    found = {
        (path.relative_to(PACKAGE).as_posix(), word.lower())
        for path in SOURCES
        for word in words_of(path)
        if word.lower() in BANNED
    }
    assert found == set()


def test_every_public_name_is_there_and_documented():
    assert len(minicnn.__all__) > 30 and minicnn.__all__ == sorted(set(minicnn.__all__)) == dir(
        minicnn
    )
    for name in minicnn.__all__:
        value = getattr(minicnn, name)
        if name == "__version__":
            assert isinstance(value, str)
        elif name != "hookimpl":  # pluggy's marker, an instance
            assert value.__doc__ and len(value.__doc__) > 10, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'minicnn' has no attribute 'Conv3d'"):
        _ = minicnn.Conv3d


def public_definitions(path):
    """(name, node) of the public functions, classes and methods in a file; those inside functions
    are not public."""

    def within(node, prefix):
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                yield f"{prefix}{child.name}", child
                if isinstance(child, ast.ClassDef):
                    yield from within(child, f"{prefix}{child.name}.")

    return list(within(ast.parse(path.read_text(encoding="utf-8")), ""))


# A rule's functions are described by the docstring of their module, which has the equation and its
# source; a hook's implementation by the hook's own docstring; an overload by the function itself.
RULE_FILES = {
    path
    for folder in ("activations", "optimizers", "losses")
    for path in PACKAGE.glob(f"{folder}/*.py")
}
RULE_FILES.add(PACKAGE / "training" / "schedules.py")


def needs_no_docstring(path, name, node):
    decorators = {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])}
    return path in RULE_FILES or decorators & {"hookimpl", "overload"} or overrides(path, name)


def overrides(path, name):
    """Whether this method has the docstring of the base class's."""
    holder, _, method = name.rpartition(".")
    if not holder:
        return False
    module = __import__(".".join(path.relative_to(ROOT).with_suffix("").parts), fromlist=["_"])
    bases = getattr(module, holder).__mro__[1:]
    return any(getattr(getattr(base, method, None), "__doc__", None) for base in bases)


def test_every_public_function_and_class_has_a_docstring():
    found, missing = 0, []
    for path in SOURCES:
        for name, node in public_definitions(path):
            found += 1
            if not ast.get_docstring(node) and not needs_no_docstring(path, name, node):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert found > 100 and missing == []


def test_every_module_says_what_it_is():
    without = [
        path
        for path in SOURCES
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    assert names_of(without) == []


# --- what is imported when ------------------------------------------------------------------------

HEAVY = [
    "numpy",
    "numba",
    "llvmlite",
    "rich",
    "PIL",
    "matplotlib",
    "pooch",
    "safetensors",
    "pluggy",
    "numba.cuda",
]


def loaded_by(code):
    report = (
        f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    return json.loads(python(f"{code}\n{report}"))


def test_importing_minicnn_loads_nothing_heavy():
    assert loaded_by("import minicnn, minicnn.errors, minicnn.hookspecs") == ["pluggy"]
    assert loaded_by("import minicnn") == []
    assert loaded_by("import minicnn; minicnn.__all__, dir(minicnn)") == ["pluggy"]
    # So the question can be answered with yes.
    assert "numba" in loaded_by("import minicnn; minicnn.Passes")


def test_a_module_is_imported_without_the_layers():
    code = "from minicnn import errors; assert 'minicnn.network' not in __import__('sys').modules"
    assert loaded_by(code) == []


def test_a_network_is_described_without_numba():
    described = "summary_rows(Network((5, 5), [Conv2d(2, 3), Flatten()]))"
    code = f"from minicnn import Conv2d, Flatten, Network; from minicnn.network.summary import summary_rows; {described}"
    assert loaded_by(code) == ["numpy", "pluggy"]


def test_the_names_of_plugins_are_listed_without_loading_one():
    code = "from minicnn import plugins; assert 'adam' in plugins.names('optimizer')"
    assert set(loaded_by(code)) <= {"pluggy"}
    module = "\nassert 'minicnn.optimizers.adam' not in __import__('sys').modules"
    assert loaded_by(code + module) == loaded_by(code)


def imports_of(path):
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def importing(package):
    return names_of(
        path
        for path in SOURCES
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    )


def test_only_the_reports_on_the_terminal_import_rich():
    assert importing("rich") == [
        f"minicnn/report/{name}.py" for name in ("console", "tables", "terminal")
    ]


def test_only_the_pictures_import_matplotlib():
    assert "minicnn/report/plots.py" in importing("matplotlib")
    assert [
        path
        for path in importing("matplotlib")
        if not path.startswith("minicnn/report/") or "plots" not in path
    ] == []


def test_only_kernels_backends_and_the_conformance_kit_import_numba():
    allowed = (
        "minicnn/kernels/",
        "minicnn/backends/",
        "minicnn/testing/",
    )  # the kit looks at what Numba made
    assert [path for path in importing("numba") if not path.startswith(allowed)] == []
    cuda = ("minicnn/kernels/cuda/", "minicnn/backends/cuda.py", "minicnn/backends/gpu.py")
    assert [path for path in importing("numba.cuda") if not path.startswith(cuda)] == []


def test_the_oracle_imports_nothing_of_minicnn():
    oracle = sorted((ROOT / "tests" / "reference").glob("*.py"))
    modules = [path for path in oracle if not path.name.startswith("test_")]
    assert len(modules) >= 4
    assert [
        path
        for path in modules
        if any(name.split(".")[0] == "minicnn" for name in imports_of(path))
    ] == []
