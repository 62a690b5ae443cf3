"""Every example in the README and in plugins/README.md runs, in its order, in one empty folder, as
a reader would run it; what the texts link to is there."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "plugins/README.md",
        "benchmarks/README.md",
        ".github/CONTRIBUTING.md",
    )
}
README = TEXTS["README.md"]
TUTORIAL, _, BEHIND_IT = TEXTS["plugins/README.md"].partition("## Optimizers that define")


def blocks(text):
    """(language, text) of each code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    lines = text.splitlines()
    assert lines and all(line.startswith("$ ") for line in lines), text
    return [shlex.split(line[2:]) for line in lines]


def run(command, folder, bin_folder=Path(sys.executable).parent):
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def test_the_readme_is_short():
    first_screen, _, guide = README.partition("[The command line]")
    assert first_screen.count("\n") < 60 and guide.count("\n") < 250


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_links_to_is_there(name):
    places = re.findall(r"\]\(([^)#]+)\)", TEXTS[name])
    for place in places:
        assert place.startswith("https://") or (ROOT / name).parent.joinpath(place).exists(), place
    sections = [line.lstrip("# ") for line in TEXTS[name].splitlines() if line.startswith("#")]
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXTS[name]):
        assert anchor in [re.sub(r"[^\w -]", "", s).lower().replace(" ", "-") for s in sections]


@pytest.mark.slow
def test_every_example_runs(tmp_path):
    python = []
    for language, text in blocks(README):
        if language == "toml" and text.startswith("# network.toml"):
            (tmp_path / "network.toml").write_text(text)
        elif language == "console":
            for command in commands(text):
                run(command, tmp_path)
        elif language == "python":
            python.append(text)
    assert len(python) >= 4
    out = run([sys.executable, "-W", "error", "-c", "\n".join(python)], tmp_path)
    accuracy = float(re.search(r"test accuracy (0\.\d+)", out)[1])
    assert accuracy > 0.8
    assert float(re.search(r"loss of the last batch: (\d\.\d+)", out)[1]) < 1.5
    counts = [int(number) for number in re.findall(r"\d+", out.splitlines()[-1])]
    assert len(counts) == 10
    assert sum(counts) == 2000


def test_trackers_take_these_lines():
    """With objects that stand in for the modules of MLflow and of Weights & Biases."""
    import numpy as np

    import minicnn
    from minicnn.data.dataset import build_dataset

    (text,) = [text for language, text in blocks(README) if language == "py"]
    logged = []

    class Tracker:
        @staticmethod
        def log_metrics(metrics, step=None):
            assert all(isinstance(value, int | float) for value in metrics.values())
            logged.append(("mlflow", step, metrics["train_loss"]))

        @staticmethod
        def log(figures):
            logged.append(("wandb", figures["epoch"], figures["train_loss"]))

    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    data = build_dataset("small", (images, np.arange(40) % 2))
    network = minicnn.Network((4, 4), [minicnn.Flatten(), minicnn.Dense(2)])
    names = {"minicnn": minicnn, "network": network, "data": data}
    exec(text, names | {"mlflow": Tracker, "wandb": Tracker})
    assert [(name, epoch) for name, epoch, _ in logged] == [
        ("mlflow", 1),
        ("wandb", 1),
        ("mlflow", 2),
        ("wandb", 2),
    ]
    assert logged[0][2] == logged[1][2] > 0


@pytest.mark.slow
def test_the_examples_of_plugins_run(tmp_path):
    examples = [text for language, text in blocks(BEHIND_IT) if language == "python"]
    assert len(examples) == 2
    for example in examples:
        run([sys.executable, "-W", "error", "-c", example], tmp_path)


def fresh_environment(folder):
    """A virtual environment in which minicnn is installed as it is here, and what is installed
    later stays there."""
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    (site_packages,) = folder.glob("lib/python*/site-packages")
    here = sysconfig.get_path("purelib")
    (site_packages / "beside.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    script = bin_folder / "minicnn"
    script.write_text(
        f"#!{bin_folder / 'python'}\nimport sys\nfrom minicnn.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return bin_folder


@pytest.mark.slow
def test_the_tutorial_leads_from_an_empty_folder_to_a_working_plugin(tmp_path):
    bin_folder = fresh_environment(tmp_path / "venv")
    folder = tmp_path / "work"
    folder.mkdir()
    printed = {}
    texts = [text for language, text in blocks(TUTORIAL) if language == "console"]
    for command in [command for text in texts for command in commands(text)]:
        if "runs/edited" in command:
            rule = folder / "minicnn-sign-momentum" / "minicnn_sign_momentum.py"
            before = rule.read_text()
            rule.write_text(
                before.replace("return p - learning_rate *", "return p - 3.0 * learning_rate *")
            )
            assert rule.read_text() != before
        printed[" ".join(command)] = run(command, folder, bin_folder)
    assert "sign_momentum" in printed["minicnn plugins list"]
    assert "minicnn-sign-momentum" in printed["minicnn plugins info sign-momentum"]
    assert "none of" in printed["minicnn plugins check sign-momentum"]
    weights = [
        (folder / "runs" / run / "model.safetensors").read_bytes()[-64:]
        for run in ("mine", "edited")
    ]
    assert weights[0] != weights[1]
    assert (folder / "dist" / "minicnn_sign_momentum-0.1.0-py3-none-any.whl").is_file()
    assert "sign_momentum" not in run([sys.executable, "-m", "minicnn", "plugins", "list"], folder)


def test_the_continuous_integration_runs_these_commands():
    commands = dict(
        re.findall(
            r"<!-- (install and \w+) -->\n```sh\n(.*?)\n```\n<!-- end -->", README, re.DOTALL
        )
    )
    assert commands["install and train"].endswith("-m minicnn train")
    assert commands["install and test"].endswith("-m pytest -n 2")
    script = (Path(__file__).parent.parent / ".ci" / "run").read_text()
    for mark in commands:
        assert f'"{mark}"' in script
    assert """PYTEST_ADDOPTS="-m 'not gpu'\"""" in script
