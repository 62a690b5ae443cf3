"""Every hook is documented, in plugins/README.md too, and works as documented; older plugins live on when
hooks grow."""

import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pluggy
import pytest

from minicnn import hookspecs, plugins

HOOKS = {
    name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.GROUP}_spec")
}
README = (Path(__file__).parent.parent / "plugins" / "README.md").read_text(encoding="utf-8")

# hook: what a plugin writes to offer something through it
EXAMPLES = {
    "minicnn_optimizers": """
        from minicnn import OptimizerRule
        @hookimpl
        def minicnn_optimizers():
            return [OptimizerRule("example", lambda p, g: p - g, lambda step, state: (), ())]
    """,
    "minicnn_losses": """
        from minicnn import LossRule
        @hookimpl
        def minicnn_losses():
            return [LossRule("example", lambda logits, label, dlogits: 0.0)]
    """,
    "minicnn_schedules": """
        from minicnn import ScheduleRule
        @hookimpl
        def minicnn_schedules():
            return [ScheduleRule("example", lambda epoch, horizon, state: 1.0)]
    """,
    "minicnn_layers": """
        from minicnn import ActivationRule
        @hookimpl
        def minicnn_layers():
            return [ActivationRule("example", lambda x: x, lambda x: 1.0)]
    """,
}
KINDS = {
    "minicnn_optimizers": "optimizer",
    "minicnn_losses": "loss",
    "minicnn_schedules": "schedule",
    "minicnn_layers": "layer",
}


def source(hook):
    return "from minicnn import hookimpl\n" + textwrap.dedent(EXAMPLES[hook])


def reference():
    """The reference of the hooks, as plugins/README.md has it."""
    parts = []
    for name, hook in HOOKS.items():
        assert hook.__doc__, f"{name} has no docstring"
        signature = inspect.signature(hook).replace(return_annotation=inspect.Signature.empty)
        parts.append(f"**`{name}{signature}`** {inspect.cleandoc(hook.__doc__)}")
    return "\n\n".join(parts)


def test_every_hook_has_an_example_here():
    assert HOOKS.keys() == EXAMPLES.keys() == KINDS.keys()


def test_the_reference_in_the_readme_is_made_of_the_docstrings():
    written = re.search(r"<!-- hooks -->\n(.*?)\n<!-- end -->", README, re.DOTALL)[1]
    assert written.replace("\n", " ").split() == reference().split()


def test_the_readme_says_which_version_of_the_api_this_is():
    assert f"version of its own, now {hookspecs.API_VERSION}." in README


@pytest.mark.parametrize("hook", EXAMPLES)
def test_every_hook_takes_in_what_a_plugin_offers_through_it(hook, install):
    install("minicnn-example", [f"{KINDS[hook]}.example"], source(hook))
    assert plugins.find(KINDS[hook], "example").name == "example"


@pytest.mark.parametrize("hook", EXAMPLES)
def test_a_hook_that_gains_an_argument_breaks_no_older_plugin(hook):
    newer, older = ModuleType("newer"), ModuleType("older")
    exec(
        f"from minicnn.hookspecs import hookspec\n@hookspec\ndef {hook}(device, dtype): ...",
        vars(newer),
    )
    exec(source(hook), vars(older))
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(newer)
    manager.register(older)
    manager.check_pending()
    ((rule,),) = getattr(manager.hook, hook)(device="cpu", dtype="float32")
    assert rule.name == "example"


@pytest.mark.parametrize("hook", EXAMPLES)
def test_a_plugin_that_asks_for_an_argument_of_later_is_one_clear_line(hook, install):
    newer = source(hook).replace(f"{hook}()", f"{hook}(device)")
    install("minicnn-example", [f"{KINDS[hook]}.example"], newer)
    with pytest.raises(
        plugins.PluginError, match=r"minicnn-example 1\.2\.3 cannot be loaded: .*device"
    ) as caught:
        plugins.find(KINDS[hook], "example")
    assert "\n" not in str(caught.value)
