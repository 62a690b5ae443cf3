"""The verb ``plugins``."""

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn import __version__
from minicnn.cli.common import (
    add_json,
    add_output,
    add_plugins,
    print_json,
    use_plugins,
    warn_of_plugins,
)
from minicnn.errors import MinicnnError, PluginError, UsageError

if TYPE_CHECKING:
    from minicnn.plugins import Entry

_SHOWN = ("name", "kind", "distribution", "version")  # of an entry
_KIND_OF = {"activation": "layer"}  # what `new` calls otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(
        title="actions", metavar="list|info|check|new", dest="action", required=True
    )
    every = actions.add_parser(
        "list", help="all that is built in or installed, and what is wrong with it"
    )
    info = actions.add_parser("info", help="equation, hyperparameters, memory and source of one")
    check = actions.add_parser(
        "check", help="put one through the conformance kit; exit status 1 if it fails"
    )
    new = actions.add_parser(
        "new", help="write a package for a rule of your own, which works as it is"
    )
    for action in (info, check):
        action.add_argument(
            "name", metavar="NAME", help="its name, or KIND.NAME such as schedule.cosine"
        )
    for action in (every, info, check):
        add_plugins(action)
        add_json(action, "the result")
    new.add_argument("name", metavar="NAME", help="name of the rule, such as lion-variant")
    new.add_argument(
        "--kind",
        choices=("optimizer", "loss", "schedule", "activation", "layer"),
        default="optimizer",
        help="what it is to be (default: optimizer)",
    )
    add_output(new, "folder to write, new or empty (default: minicnn-NAME)")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"list": _list, "info": _info, "check": _check, "new": _new}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from minicnn import plugins
    from minicnn.report.console import table

    with contextlib.nullcontext() if arguments.strict_plugins else contextlib.suppress(PluginError):
        use_plugins(arguments)  # a broken file is a row
    entries = plugins.entries()
    rows = [
        {name: getattr(entry, name) for name in _SHOWN} | {"state": entry.state(entries)}
        for entry in entries
    ]
    if arguments.json:
        print_json({"plugins": rows})
    else:
        table(
            "",
            (*_SHOWN, "state"),
            [tuple(row.values()) for row in rows],
        )
    return 0


def _asked_for(arguments: argparse.Namespace) -> "Entry":
    """The one entry that NAME means."""
    from minicnn import plugins

    use_plugins(arguments)
    entries = plugins.entries()
    kind, _, name = arguments.name.rpartition(".")
    among = [entry for entry in entries if kind in ("", entry.kind)]
    kinds = sorted({entry.kind for entry in among if entry.name == plugins.canonical_name(name)})
    if len(kinds) > 1:
        raise UsageError(
            f"{name} is the name of {' and '.join(kinds)}: say {' or '.join(f'{k}.{name}' for k in kinds)}"
        )
    return plugins.select(among, kinds[0] if kinds else kind or "plugin", name)


def _info(arguments: argparse.Namespace) -> int:
    from minicnn.report.console import make_console, say, table

    entry = _asked_for(arguments)
    about = _about(entry)
    warn_of_plugins()
    if arguments.json:
        print_json(about)
        return 0
    console = make_console()
    for label, value in about.items():
        if label == "memory":
            say(
                console,
                f"{label:<13} {value} bytes a parameter, besides the parameter and its gradient",
            )
        elif label != "hyperparameters":
            text = ", ".join(value) if isinstance(value, list) else value
            say(console, f"{label:<13} {text or '–'}")
    if about["hyperparameters"]:
        say(console)
        rows = [tuple(hyper.values()) for hyper in about["hyperparameters"]]
        table("", ("hyperparameter", "default", "range", "meaning"), rows, console)
    return 0


def _about(entry: "Entry") -> dict[str, Any]:
    from minicnn.plugins import find
    from minicnn.rules import LayerRule

    rule: Any = entry.get()
    about: dict[str, Any] = {
        **{name: getattr(entry, name) for name in _SHOWN},
        "equation": rule.equation,
        "source": rule.source,
        "devices": ["cpu"] if isinstance(rule, LayerRule) else ["cpu", "cuda"],
    }
    if entry.kind == "optimizer":
        slots = list(rule.slots)
        for base in getattr(rule, "bases", ()):
            base = find("optimizer", base)
            slots += [f"{base.name}.{slot}" for slot in getattr(base, "slots", ())]
        scratch = getattr(rule, "scratch", ()) if hasattr(rule, "bases") else ()
        about |= {
            "type": type(rule).__name__,
            "slots": slots,
            "memory": 4 * (len(slots) + len(scratch)),
        }
    if entry.kind == "layer":
        about |= {"type": type(rule).__name__}
    about["hyperparameters"] = [
        {name: getattr(hyper, name) for name in ("name", "default", "range", "meaning")}
        for hyper in rule.hyperparameters
    ]
    return about


def _check(arguments: argparse.Namespace) -> int:
    from minicnn.testing.apart import check_apart

    entry = _asked_for(arguments)
    entry.get()
    warn_of_plugins()
    checks = check_apart(entry.kind, entry.name, arguments.plugin)
    failed = [check for check in checks if not check.passed]
    if arguments.json:
        print_json({"name": entry.name, "kind": entry.kind, "passed": not failed, "checks": checks})
    else:
        from minicnn.report.console import table

        title = f"{entry.kind} {entry.name} of {entry.owner}: {len(failed) or 'none'} of {len(checks)} checks failed"
        table(
            title,
            ("check", "result", "detail"),
            [(check.name, check.result, check.detail) for check in checks],
        )
    return 1 if failed else 0


def _new(arguments: argparse.Namespace) -> int:
    folder = _write_package(arguments.name, arguments.kind, arguments.output)
    rule = f"{_KIND_OF.get(arguments.kind, arguments.kind)}.{arguments.name}"
    print(
        f"{folder} is a complete package: pip install -e {folder}, then minicnn plugins check {rule}"
    )
    return 0


def _write_package(name: str, kind: str, folder: Path | None) -> Path:
    """Write a complete package that offers ``kind`` ``name`` into ``folder``, new or empty; return
    the folder.

    Raises `UsageError` for a name that cannot be one, or a folder that holds something.
    """
    from importlib.resources import files
    from string import Template

    plain = name.strip().lower().replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plain):
        raise UsageError(f"NAME must be letters and digits with - or _ between them, not {name!r}")
    distribution = f"minicnn-{plain}"
    module = distribution.replace("-", "_")
    folder = folder or Path(distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there and not empty; name another folder with --output")
    use = {
        "optimizer": f"--opt {plain}",
        "loss": f"--loss {plain}",
        "schedule": f"--sched {plain}",
    }.get(kind, f'--model FILE.toml    # with a layer of type = "{plain}" in it')
    words = {
        "name": plain,
        "kind": _KIND_OF.get(kind, kind),
        "distribution": distribution,
        "module": module,
        "version": __version__,
        "constant": plain.replace("-", "_").upper(),
        "use": use,
    }
    templates = files("minicnn.cli").joinpath("templates")
    written = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}.py": f"{kind}.py",
        f"tests/test_{module}.py": "test.py",
    }
    try:
        for file, template in written.items():
            text = templates.joinpath(f"{template}.txt").read_text(encoding="utf-8")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        raise MinicnnError(f"cannot write {folder}: {error.strerror}") from None
    return folder
