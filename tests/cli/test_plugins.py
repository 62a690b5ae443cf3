"""`plugins`: list, info, check, new; broken plugins stop nobody who does not ask for them; nothing
is imported too early."""

import json
import os
import textwrap

import pytest

from minicnn.testing import Check, apart
from tests.cli.conftest import SOFTMAX, process

RULE = """
from minicnn import Hyperparameter, OptimizerRule, hookimpl

def update(p, g, slot, rate):
    return p - rate * g, slot

def prepare(step, state, learning_rate):
    return (learning_rate,)

@hookimpl
def minicnn_optimizers():
    return [OptimizerRule("far-descent", update, prepare, (Hyperparameter("learning_rate", 0.05, 0.0, meaning="step"),),
                          ("slot",), equation="w ← w − η g", source="Far 2026")]
"""
RAISES = "raise RuntimeError('no luck')"
SHORT = ("train", *SOFTMAX, "--epochs", 1, "--quiet")


@pytest.fixture
def broken(install):
    """One sound plugin and one of every kind of broken one."""
    hook = "from minicnn import hookimpl\n@hookimpl\n"
    install("minicnn-far", ["optimizer.far-descent"], RULE)
    install("minicnn-raises", ["optimizer.raises"], RAISES)
    install("minicnn-misnamed", ["optimizer.misnamed"], hook + "def minicnn_optimiser(): return []")
    install(
        "minicnn-wrong", ["optimizer.wrong"], hook + "def minicnn_optimizers(): return ['adam']"
    )
    install("minicnn-later", ["loss.later"], "minicnn_api = 99")
    install("minicnn-needs", ["loss.needs"], "", metadata="Requires-Dist: minicnn-numba>=99\n")
    install("minicnn-impostor", ["optimizer.lion"], RULE)
    install("minicnn-one", ["schedule.twice"], "")
    install("minicnn-other", ["schedule.twice"], "")
    install("minicnn-odd", ["metric.odd"], "")
    return install


BROKEN = {
    "minicnn-raises": "RuntimeError: no luck",
    "minicnn-misnamed": "minicnn_optimiser",
    "minicnn-wrong": "must return a list of OptimizerRule",
    "minicnn-later": "plugin API 99",
    "minicnn-needs": "needs minicnn-numba 99",
    "minicnn-impostor": "minicnn-impostor 1.2.3 and minicnn-numba",
    "minicnn-one": "minicnn-one 1.2.3 and minicnn-other 1.2.3",
    "minicnn-other": "minicnn-one 1.2.3 and minicnn-other 1.2.3",
    "minicnn-odd": "the kinds are optimizer, loss, schedule",
}


def listed(minicnn, *options):
    result = minicnn("plugins", "list", "--json", *options)
    assert result.status == 0 and result.err == "", result
    return {(row["distribution"], row["name"]): row for row in json.loads(result.out)["plugins"]}


def test_list_shows_what_is_built_in_and_what_is_installed(install, minicnn):
    install("minicnn-far", ["optimizer.far-descent"], RULE)
    rows = listed(minicnn)
    assert (
        rows["minicnn-numba", "adam"]["kind"] == "optimizer"
        and rows["minicnn-numba", "one_cycle"]["kind"] == "schedule"
    )
    row = {
        "name": "far_descent",
        "kind": "optimizer",
        "distribution": "minicnn-far",
        "version": "1.2.3",
        "state": "ok",
    }
    assert rows["minicnn-far", "far_descent"] == row
    assert {row["state"] for row in rows.values()} == {"ok"}
    line = next(
        line for line in minicnn("plugins", "list").out.splitlines() if "far_descent" in line
    )
    assert line.split() == list(row.values())


def test_every_broken_plugin_is_a_row_with_its_reason(broken, minicnn):
    rows = listed(minicnn)
    for distribution, reason in BROKEN.items():
        ((_, row),) = [item for item in rows.items() if item[0][0] == distribution]
        assert reason in row["state"] and "\n" not in row["state"]
    assert rows["minicnn-numba", "lion"]["state"] == rows["minicnn-impostor", "lion"]["state"]
    assert (
        rows["minicnn-far", "far_descent"]["state"]
        == rows["minicnn-numba", "adam"]["state"]
        == "ok"
    )


def test_broken_plugins_stop_no_command_that_does_not_ask_for_them(broken, minicnn):
    result = minicnn(*SHORT, "--opt", "far_descent", "--output", "run")
    assert result.status == 0
    warnings = result.err.splitlines()
    assert len(warnings) == 3 and all(line.startswith("minicnn: warning: ") for line in warnings)
    assert (
        "minicnn-impostor" in result.err
        and "minicnn-other" in result.err
        and "metric.odd" in result.err
    )
    assert minicnn("evaluate", "run", "--json").status == 0
    assert minicnn("predict", "run", "tiny.npz").err.count("warning") == 0
    assert minicnn("plugins", "info", "adam", "--json").status == 0


@pytest.mark.parametrize(
    ("name", "reason"), [("raises", "minicnn-raises 1.2.3"), ("lion", "minicnn-impostor 1.2.3")]
)
def test_asking_for_a_broken_plugin_is_an_error_that_names_its_distribution(
    broken, minicnn, name, reason
):
    assert reason in minicnn(*SHORT, "--opt", name).error
    assert reason in minicnn("plugins", "info", name).error
    assert reason in minicnn("plugins", "check", name).error


def test_strict_makes_any_broken_plugin_an_error(install, minicnn, monkeypatch):
    install("minicnn-far", ["optimizer.far-descent"], RULE)
    assert minicnn("plugins", "list", "--strict-plugins").status == 0
    install("minicnn-raises", ["loss.raises"], RAISES)
    for argv in (SHORT, ("plugins", "list"), ("plugins", "info", "adam"), ("evaluate", "nowhere")):
        assert "minicnn-raises 1.2.3 cannot be loaded" in minicnn(*argv, "--strict-plugins").error
    monkeypatch.setenv("MINICNN_PLUGINS", "minicnn-far")
    assert minicnn("plugins", "list", "--strict-plugins").status == 0


def test_switched_off_plugins_are_listed_as_off(broken, minicnn, monkeypatch):
    monkeypatch.setenv("MINICNN_PLUGINS", "")
    rows = listed(minicnn)
    assert {
        row["state"] for (distribution, _), row in rows.items() if distribution == "minicnn-numba"
    } == {"ok"}
    assert (
        rows["minicnn-far", "far_descent"]["state"]
        == rows["minicnn-raises", "raises"]["state"]
        == "off"
    )
    assert "switched off by MINICNN_PLUGINS" in minicnn(*SHORT, "--opt", "far-descent").error


def test_info_says_all_about_a_rule(install, minicnn):
    install("minicnn-far", ["optimizer.far-descent"], RULE)
    shown = json.loads(minicnn("plugins", "info", "far-descent", "--json").out)
    assert shown == {
        "name": "far_descent",
        "kind": "optimizer",
        "distribution": "minicnn-far",
        "version": "1.2.3",
        "equation": "w ← w − η g",
        "source": "Far 2026",
        "devices": ["cpu", "cuda"],
        "type": "OptimizerRule",
        "slots": ["slot"],
        "memory": 4,
        "hyperparameters": [
            {"name": "learning_rate", "default": 0.05, "range": "[0, inf)", "meaning": "step"}
        ],
    }
    out = minicnn("plugins", "info", "optimizer.far_descent").out
    for words in (
        "minicnn-far",
        "w ← w − η g",
        "Far 2026",
        "4 bytes a parameter",
        "learning_rate",
        "[0, inf)",
        "0.05",
    ):
        assert words in out


def test_info_of_an_unknown_name_lists_the_near_ones(minicnn):
    assert "did you mean 'cosine'" in minicnn("plugins", "info", "schedule.cosin").error
    assert "did you mean 'adam'" in minicnn("plugins", "info", "adm").error


def test_a_name_of_two_kinds_needs_its_kind(install, minicnn):
    install("minicnn-far", ["loss.far-descent", "optimizer.far-descent"], RULE)
    error = minicnn("plugins", "info", "far-descent")
    assert (
        error.status == 2
        and "optimizer.far-descent" in error.error
        and "loss.far-descent" in error.error
    )
    assert minicnn("plugins", "info", "optimizer.far-descent").status == 0


def test_unknown_hyperparameters_list_the_known_ones(install, minicnn):
    install("minicnn-far", ["optimizer.far-descent"], RULE)
    result = minicnn(*SHORT, "--opt", "far-descent", "--opt-kwargs", "rate=1")
    assert result.status == 2 and "learning_rate" in result.error


# --- files ----------------------------------------------------------------------------------------


def test_a_file_serves_train_resume_evaluate_info_and_list(place, minicnn):
    loss = RULE.replace("optimizers", "losses").split("def update")[0] + textwrap.dedent("""
        from minicnn import LossRule

        def row(logits, target, dlogits):
            total = 0.0
            for k in range(len(logits)):
                dlogits[k] = logits[k] - target[k]
                total += 0.5 * dlogits[k] * dlogits[k]
            return total

        @hookimpl
        def minicnn_losses():
            return [LossRule("half-square", row, target="values")]
    """)
    (place / "rule.py").write_text(RULE)
    (place / "loss.py").write_text(loss)
    both = ("--plugin", "rule.py", "--plugin", "loss.py")
    run = (*SHORT, "--opt", "far-descent", "--loss", "half_square", "--output", "run")
    assert minicnn(*run, *both).status == 0
    assert (
        minicnn(
            "train", "--resume", "run", "--epochs", 2, "--opt", "far_descent", "--quiet", *both
        ).status
        == 0
    )
    assert json.loads(minicnn("evaluate", "run", "--json", "--plugin", "loss.py").out)["loss"] > 0
    without = minicnn("evaluate", "run", "--json")
    assert json.loads(without.out)["loss"] is None and "half-square" in without.err
    assert minicnn("plugins", "info", "far-descent", *both).status == 0
    rows = listed(minicnn, *both)
    assert rows[str(place / "loss.py"), "half_square"]["state"] == "ok"
    assert "--plugin FILE.py" in minicnn("plugins", "info", "far-descent").error


def test_a_broken_file_is_an_error_and_in_the_list_a_row(place, minicnn):
    (place / "rule.py").write_text(RAISES)
    assert (
        "rule.py cannot be loaded: RuntimeError: no luck"
        in minicnn(*SHORT, "--plugin", "rule.py").error
    )
    assert (
        "no luck" in listed(minicnn, "--plugin", "rule.py")[str(place / "rule.py"), "rule"]["state"]
    )


# --- new and check --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["optimizer", "loss", "schedule"])
def test_a_new_package_passes_its_own_test_and_the_conformance_kit(place, minicnn, kind):
    made = minicnn("plugins", "new", "Lion_variant", "--kind", kind, "--output", "made")
    assert made.status == 0 and "made" in made.out
    files = {
        str(path.relative_to(place / "made"))
        for path in (place / "made").rglob("*")
        if path.is_file()
    }
    assert files == {
        "pyproject.toml",
        "README.md",
        "minicnn_lion_variant.py",
        "tests/test_minicnn_lion_variant.py",
    }
    project = (place / "made" / "pyproject.toml").read_text()
    assert (
        f'"{kind}.lion-variant" = "minicnn_lion_variant"' in project
        and '"minicnn-numba>=' in project
    )
    checked = minicnn(
        "plugins", "check", "lion-variant", "--json", "--plugin", "made/minicnn_lion_variant.py"
    )
    assert checked.status == 0
    assert {check["result"] for check in json.loads(checked.out)["checks"]} == {"passed"}
    test = (place / "made" / "tests" / "test_minicnn_lion_variant.py").read_text()
    assert f"minicnn.testing.check_{kind}(LION_VARIANT)" in test


@pytest.mark.parametrize("name", ["", "1st", "two words", "a/b", "-", "é"])
def test_a_name_that_can_be_none_is_refused(name, minicnn):
    result = minicnn("plugins", "new", "--output=made", "--", name)
    assert result.status == 2 and "NAME must be" in result.error


def test_a_folder_that_holds_something_is_left_alone(place, minicnn):
    assert minicnn("plugins", "new", "mine").status == 0
    result = minicnn("plugins", "new", "mine")
    assert result.status == 2 and "minicnn-mine is there and not empty" in result.error


@pytest.mark.parametrize(
    ("results", "status"), [(("passed", "warning"), 0), (("passed", "failed"), 1)]
)
def test_check_prints_a_table_and_exits_1_on_a_failure(minicnn, monkeypatch, results, status):
    checks = [Check(f"check of {result}", result, f"detail of {result}") for result in results]
    monkeypatch.setattr(apart, "check_apart", lambda kind, name, files: checks)
    shown = minicnn("plugins", "check", "cosine")
    assert shown.status == status and shown.err == ""
    for result in results:
        assert f"check of {result}" in shown.out and f"detail of {result}" in shown.out
    shown = minicnn("plugins", "check", "cosine", "--json")
    assert shown.status == status and json.loads(shown.out)["passed"] == (status == 0)


# --- laziness -------------------------------------------------------------------------------------


def test_fifty_plugins_cost_nothing_until_they_are_asked_for(install, model):
    """Every plugin leaves a mark when it is imported; one of them would sleep, one raises."""
    mark = "import pathlib\npathlib.Path({!r}, __name__).touch()\n".format(
        str(install.folder / "imported")
    )
    (install.folder / "imported").mkdir()
    for number in range(48):
        name = f"far-descent-{number}"
        source = mark + RULE.replace("far-descent", name)
        install(f"minicnn-far-{number}", [f"optimizer.{name}"], source)
    install("minicnn-sleeps", ["schedule.sleeps"], mark + "import time\ntime.sleep(1)\n")
    install("minicnn-raises", ["loss.raises"], mark + RAISES)
    path = os.pathsep.join([str(install.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}

    def imported(*argv):
        done = process(*argv, env=environment)
        assert done.returncode == 0, done.stderr
        marks = sorted(file.name for file in (install.folder / "imported").iterdir())
        for file in marks:
            (install.folder / "imported" / file).unlink()
        return marks, done

    for argv in (
        ["--help"],
        ["train", "--help"],
        ["predict", "model", "tiny.npz"],
        ["evaluate", "model"],
        ["plugins", "info", "adam"],
        [*SHORT, "--opt", "adam", "--output", "a"],
    ):
        marks, done = imported(*argv)
        assert marks == [] and "warning" not in done.stderr
    assert imported(*SHORT, "--opt", "far-descent-7", "--output", "b")[0] == ["minicnn_far_7"]
    marks, done = imported("plugins", "list", "--json")
    assert len(marks) == 50
    rows = [
        row for row in json.loads(done.stdout)["plugins"] if row["distribution"] != "minicnn-numba"
    ]
    assert len(rows) == 50
    wrong = {row["distribution"]: row["state"] for row in rows if row["state"] != "ok"}
    assert set(wrong) == {"minicnn-sleeps", "minicnn-raises"}
    assert "does not offer" in wrong["minicnn-sleeps"] and "no luck" in wrong["minicnn-raises"]


DIES = """\
import numpy as np

from minicnn import Hyperparameter, OptimizerRule, hookimpl


def update(p, g, rate):
    \"""Reads a table at a place that only huge gradients reach.\"""
    table = np.zeros(64)
    return p - rate * (g + table[int(1e12) if abs(g) > 5e3 else int(abs(g) * 0.01)])


def prepare(step, state, learning_rate):
    return (learning_rate,)


@hookimpl
def minicnn_optimizers():
    return [OptimizerRule("dies", update, prepare, (Hyperparameter("learning_rate", 0.01),))]
"""


def test_a_check_that_kills_its_process_is_a_row_of_the_table_and_the_others_are_done(
    place, minicnn
):
    (place / "dies.py").write_text(DIES)
    result = minicnn("plugins", "check", "dies", "--plugin", "dies.py", "--json")
    checks = {check["name"]: check for check in json.loads(result.out)["checks"]}
    assert result.status == 1
    died = [check for check in checks.values() if "the process died (SIGSEGV)" in check["detail"]]
    assert died and {check["result"] for check in died} == {"failed"}
    assert checks["runs in plain Python"]["result"] == checks["parabola"]["result"] == "passed"
    assert list(checks)[-1] == "CUDA"
