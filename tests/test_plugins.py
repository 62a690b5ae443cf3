"""Looking up rules by name: only what is asked for is imported, and a broken plugin is named."""

import subprocess
import sys
import textwrap

import pytest

from minicnn import hookspecs, plugins
from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.rules import AnyOptimizer, LossRule

GOOD = """
from minicnn.hookspecs import hookimpl
from minicnn.rules import Hyperparameter, OptimizerRule

def update(p, g, learning_rate):
    return p - learning_rate * g

def prepare(step, state, learning_rate):
    return (learning_rate,)

@hookimpl
def minicnn_optimizers():
    return [OptimizerRule("far-descent", update, prepare, (Hyperparameter("learning_rate", 1.0),))]
"""


def error_of(name, kind="optimizer"):
    with pytest.raises(PluginError) as caught:
        plugins.find(kind, name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_built_in_rule_is_found_by_its_name():
    assert plugins.find("optimizer", "adam").name == "adam"
    assert plugins.find("loss", "cross_entropy").name == "cross_entropy"
    assert plugins.find("schedule", "one_cycle").name == "one_cycle"


def test_dashes_and_underscores_are_the_same():
    assert plugins.find("loss", "cross-entropy") is plugins.find("loss", "cross_entropy")


def test_an_installed_plugin_is_found_and_listed(install):
    module = install("minicnn-far", ["optimizer.far-descent"], GOOD)
    assert "far_descent" in plugins.names("optimizer")
    assert module not in sys.modules
    assert plugins.find("optimizer", "far_descent").name == "far-descent"
    assert module in sys.modules


def test_a_rule_itself_is_returned_as_it_is():
    rule = plugins.find("optimizer", "sgd")
    assert plugins.find("optimizer", rule) is rule


def test_a_rule_of_another_kind_is_refused():
    with pytest.raises(
        SettingError, match="loss must be a name or of type LossRule, not OptimizerRule"
    ):
        plugins.find("loss", plugins.find("optimizer", "sgd"))


def test_an_unknown_name_lists_near_matches_and_how_to_install_a_plugin():
    with pytest.raises(
        UnknownNameError, match=r"unknown optimizer 'adm'; did you mean 'adam'.*pip install"
    ):
        plugins.find("optimizer", "adm")


def test_a_name_of_another_kind_is_unknown():
    with pytest.raises(UnknownNameError, match="unknown loss 'adam'"):
        plugins.find("loss", "adam")


def test_asking_for_one_rule_imports_no_other_plugin(install):
    install("minicnn-raising", ["optimizer.raising"], "raise RuntimeError('imported')")
    script = """
        import sys
        from minicnn import hookspecs, plugins
        plugins.names("optimizer"), plugins.names("loss")
        loaded = [name for name in sys.modules if name.startswith(("minicnn.optimizers", "minicnn.losses", "numba"))]
        assert loaded == [], loaded
        plugins.find("optimizer", "adam")
        loaded = sorted(name for name in sys.modules if name.startswith(("minicnn.optimizers.", "minicnn.losses.")))
        assert loaded == ["minicnn.optimizers.adam"], loaded
        assert "numba" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    assert plugins.find("optimizer", "adam").name == "adam"
    assert "minicnn_raising" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_to_import_is_named_with_its_version(install, source, reason):
    install("minicnn-bad", ["optimizer.bad"], source)
    text = error_of("bad")
    assert text.startswith("optimizer 'bad' of minicnn-bad 1.2.3 cannot be loaded: ")
    assert reason in text


def test_a_hook_that_raises_is_named(install):
    hook = "from minicnn.hookspecs import hookimpl\n@hookimpl\ndef minicnn_optimizers():\n    return 1 / 0\n"
    install("minicnn-bad", ["optimizer.bad"], hook)
    assert "minicnn-bad 1.2.3 cannot be loaded: ZeroDivisionError" in error_of("bad")


def test_a_misspelt_hook_is_named(install):
    hook = "from minicnn.hookspecs import hookimpl\n@hookimpl\ndef minicnn_optimiser():\n    return []\n"
    install("minicnn-bad", ["optimizer.bad"], hook)
    assert "minicnn_optimiser" in error_of("bad")


@pytest.mark.parametrize("value", ["'a string'", "[42]", "{'adan': 1}", "42"])
def test_a_hook_that_hands_over_a_wrong_type_is_named(install, value):
    hook = f"from minicnn.hookspecs import hookimpl\n@hookimpl\ndef minicnn_optimizers():\n    return {value}\n"
    install("minicnn-bad", ["optimizer.bad"], hook)
    text = error_of("bad")
    assert "minicnn-bad 1.2.3" in text
    assert "must return a list of OptimizerRule or StepRule" in text


@pytest.mark.parametrize("source", [GOOD, "", "from minicnn.hookspecs import hookimpl\n"])
def test_a_plugin_that_does_not_offer_what_it_announces_is_named(install, source):
    install("minicnn-bad", ["optimizer.bad"], source)
    assert "optimizer 'bad' of minicnn-bad 1.2.3 does not offer" in error_of("bad")


def test_two_plugins_of_one_name_are_both_named(install):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    install("minicnn-further", ["optimizer.far_descent"], GOOD, version="9.0")
    text = error_of("far-descent")
    assert "minicnn-far 1.2.3 and minicnn-further 9.0" in text
    assert plugins.names("optimizer").count("far_descent") == 1


def test_an_install_that_was_cut_off_stops_nobody(install):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    (install.folder / "minicnn_far-1.2.3.dist-info" / "METADATA").unlink()
    assert plugins.find("optimizer", "adam").name == "adam"
    assert ("minicnn_far", "?") in {
        (entry.distribution, entry.version) for entry in plugins.entries()
    }


def test_the_metadata_of_a_distribution_are_read_once_however_many_rules_it_has(
    install, monkeypatch
):
    install("minicnn-far", [f"optimizer.far-{number}" for number in range(20)], GOOD)
    distribution, read = plugins._distribution, []
    monkeypatch.setattr(plugins, "_distribution", lambda one: read.append(one) or distribution(one))
    owners = {entry.owner for entry in plugins.entries()}
    assert "minicnn-far 1.2.3" in owners and len(read) <= len(owners) < 10


def test_a_plugin_cannot_replace_a_built_in_rule(install):
    install("minicnn-impostor", ["optimizer.adam"], GOOD)
    text = error_of("adam")
    assert "minicnn-impostor 1.2.3" in text
    assert "minicnn-numba" in text
    assert plugins.find("optimizer", "sgd").name == "sgd"


def test_one_module_may_stand_behind_several_names(install):
    source = """
        from minicnn.hookspecs import hookimpl
        from minicnn.rules import LossRule, ScheduleRule

        @hookimpl
        def minicnn_losses():
            return [LossRule("one", lambda x, y, d: 0.0), LossRule("two", lambda x, y, d: 0.0)]

        @hookimpl
        def minicnn_schedules():
            return [ScheduleRule("three", lambda epoch, horizon, state: 1.0)]
    """
    install("minicnn-many", ["loss.one", "loss.two", "schedule.three"], source)
    assert plugins.find("loss", "two").name == "two"
    assert plugins.find("schedule", "three").name == "three"


def test_every_built_in_entry_point_offers_a_rule_of_its_name():
    for kind, rule_type in (("optimizer", AnyOptimizer), ("loss", LossRule)):
        for name in plugins.names(kind):
            rule = plugins.find(kind, name)
            assert isinstance(rule, rule_type)
            assert rule.name == name


# --- versions -------------------------------------------------------------------------------------


def test_a_plugin_for_a_newer_api_is_named_with_both_versions(install):
    install("minicnn-far", ["optimizer.far-descent"], GOOD + "\nminicnn_api = 99\n")
    text = error_of("far-descent")
    assert (
        "minicnn-far 1.2.3" in text
        and "plugin API 99" in text
        and f"has {hookspecs.API_VERSION}" in text
    )


def test_a_plugin_for_this_api_is_taken(install):
    install(
        "minicnn-far",
        ["optimizer.far-descent"],
        GOOD + f"\nminicnn_api = {hookspecs.API_VERSION}\n",
    )
    assert plugins.find("optimizer", "far-descent").name == "far-descent"


@pytest.mark.parametrize(
    "requirement",
    ["minicnn-numba>=99.1", "minicnn_numba (>=99.1)", "minicnn-numba[data]<200,>=99.1"],
)
def test_a_plugin_that_needs_a_newer_minicnn_is_named_and_not_imported(install, requirement):
    module = install(
        "minicnn-far", ["optimizer.far-descent"], GOOD, metadata=f"Requires-Dist: {requirement}\n"
    )
    assert "minicnn-far 1.2.3 needs minicnn-numba 99.1, this is" in error_of("far-descent")
    assert module not in sys.modules


@pytest.mark.parametrize(
    "requirement", ["minicnn-numba>=0.1", "minicnn-numba", "numba>=99", "minicnn-numba>=0.1.0.0"]
)
def test_other_requirements_are_no_hindrance(install, requirement):
    install(
        "minicnn-far", ["optimizer.far-descent"], GOOD, metadata=f"Requires-Dist: {requirement}\n"
    )
    assert plugins.find("optimizer", "far-descent").name == "far-descent"


# --- the switch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "minicnn-other", "adam"])
def test_a_plugin_that_is_switched_off_is_not_there(install, monkeypatch, value):
    module = install("minicnn-far", ["optimizer.far-descent"], GOOD)
    monkeypatch.setenv("MINICNN_PLUGINS", value)
    assert "far_descent" not in plugins.names("optimizer")
    assert "minicnn-far 1.2.3 is switched off by MINICNN_PLUGINS" in error_of("far-descent")
    assert module not in sys.modules
    assert plugins.find("optimizer", "adam").name == "adam"


@pytest.mark.parametrize(
    "value", ["minicnn-far", "Minicnn_Far", "else, far-descent", "optimizer.far_descent"]
)
def test_the_switch_takes_distributions_and_names(install, monkeypatch, value):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    monkeypatch.setenv("MINICNN_PLUGINS", value)
    assert plugins.find("optimizer", "far-descent").name == "far-descent"


def test_the_switch_chooses_between_two_of_one_name(install, monkeypatch):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    install("minicnn-further", ["optimizer.far_descent"], GOOD)
    monkeypatch.setenv("MINICNN_PLUGINS", "minicnn-further")
    plugins.find("optimizer", "far-descent")
    assert "minicnn_further" in sys.modules and "minicnn_far" not in sys.modules


# --- files ----------------------------------------------------------------------------------------


def file(install, source, name="rule.py"):
    path = install.folder / name
    path.write_text(textwrap.dedent(source))
    return path


def test_a_file_offers_its_rules_until_others_are_named(install):
    plugins.use_files([file(install, GOOD)])
    assert plugins.find("optimizer", "far_descent").name == "far-descent"
    assert "far_descent" in plugins.names("optimizer")
    plugins.use_files([])
    with pytest.raises(UnknownNameError, match=r"--plugin FILE\.py"):
        plugins.find("optimizer", "far_descent")


def test_a_file_counts_whatever_the_switch_says_and_may_be_named_twice(install, monkeypatch):
    monkeypatch.setenv("MINICNN_PLUGINS", "")
    path = file(install, GOOD)
    plugins.use_files([path, str(path)])
    assert plugins.find("optimizer", "far-descent").name == "far-descent"


def test_a_file_and_a_distribution_of_one_name_are_both_named(install):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    path = file(install, GOOD)
    plugins.use_files([path])
    text = error_of("far-descent")
    assert str(path) in text and "minicnn-far 1.2.3" in text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no such file"),
        ("raise RuntimeError('no luck')", "cannot be loaded: RuntimeError: no luck"),
        ("", "offers nothing"),
        (
            "from minicnn.hookspecs import hookimpl\n@hookimpl\ndef minicnn_optimiser(): pass",
            "minicnn_optimiser",
        ),
        (
            "from minicnn.hookspecs import hookimpl\n@hookimpl\ndef minicnn_losses(): return [1]",
            "a list of LossRule",
        ),
        ("minicnn_api = 2 * 50", "plugin API 100"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(install, source, reason):
    path = install.folder / "rule.py" if source is None else file(install, source)
    with pytest.raises(PluginError) as caught:
        plugins.use_files([path])
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert plugins.find("optimizer", "adam").name == "adam"


def test_a_file_that_is_no_python_is_refused(install):
    with pytest.raises(PluginError, match="must be a Python file"):
        plugins.use_files([file(install, GOOD, "rule.txt")])


def test_what_a_plugin_prints_does_not_reach_stdout(install, capsys):
    install("minicnn-far", ["optimizer.far-descent"], "print('hello')\n" + GOOD)
    plugins.find("optimizer", "far-descent")
    assert capsys.readouterr() == ("", "hello\n")


# --- what is known without an import --------------------------------------------------------------


def test_states_say_what_is_wrong_and_only_a_state_imports(install, monkeypatch):
    install("minicnn-far", ["optimizer.far-descent"], GOOD)
    install("minicnn-bad", ["loss.bad"], "raise RuntimeError('imported')")
    install("minicnn-odd", ["optimiser.odd", "odd"], "raise RuntimeError('imported')")
    install("minicnn-impostor", ["optimizer.adam"], "raise RuntimeError('imported')")
    known = plugins.entries()
    clashes = {entry.name: entry.conflict(known) for entry in known if entry.conflict(known)}
    assert set(clashes) == {"adam", "odd", ""}
    assert "minicnn-impostor 1.2.3 and minicnn-numba" in clashes["adam"]
    assert "the kinds are optimizer, loss, schedule" in clashes["odd"]
    assert not {"minicnn_far", "minicnn_bad", "minicnn_odd", "minicnn_impostor"} & set(sys.modules)
    states = {
        entry.distribution: entry.state(known)
        for entry in known
        if entry.distribution != "minicnn-numba"
    }
    assert states["minicnn-far"] == "ok" and "RuntimeError: imported" in states["minicnn-bad"]
    assert states["minicnn-impostor"] == clashes["adam"]
    monkeypatch.setenv("MINICNN_PLUGINS", "")
    assert {entry.state(known) for entry in known if entry.distribution == "minicnn-far"} == {"off"}


def test_a_minicnn_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr("minicnn.plugins.entry_points", lambda group: [])
    with pytest.raises(
        PluginError, match=r"minicnn is not installed.*in a checkout by pip install"
    ):
        plugins.find("optimizer", "adam")
