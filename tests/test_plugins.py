"""Looking up rules by name: only what is asked for is imported, and a broken plugin is named."""

import subprocess
import sys
import textwrap

import pytest

from minicnn import plugins
from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.rules import LossRule, OptimizerRule

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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution that offers entry points, each standing for a module with the given source."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def install(distribution, entry_points, source, version="1.2.3"):
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        folder = tmp_path / f"{module}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "".join(f"{name} = {module}\n" for name in entry_points)
        (folder / "entry_points.txt").write_text(f"[minicnn]\n{lines}")
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)


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
    with pytest.raises(SettingError, match="loss must be a name or of type LossRule, not OptimizerRule"):
        plugins.find("loss", plugins.find("optimizer", "sgd"))


def test_an_unknown_name_lists_near_matches_and_how_to_install_a_plugin():
    with pytest.raises(UnknownNameError, match=r"unknown optimizer 'adm'; did you mean 'adam'.*pip install"):
        plugins.find("optimizer", "adm")


def test_a_name_of_another_kind_is_unknown():
    with pytest.raises(UnknownNameError, match="unknown loss 'adam'"):
        plugins.find("loss", "adam")


def test_asking_for_one_rule_imports_no_other_plugin(install):
    install("minicnn-raising", ["optimizer.raising"], "raise RuntimeError('imported')")
    script = """
        import sys
        from minicnn import plugins
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
    assert "must return a list of OptimizerRule" in text


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
    for kind, rule_type in (("optimizer", OptimizerRule), ("loss", LossRule)):
        for name in plugins.names(kind):
            rule = plugins.find(kind, name)
            assert isinstance(rule, rule_type)
            assert rule.name == name
