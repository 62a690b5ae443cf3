"""Recipes: settings, network included, that reach a certain accuracy; each is a TOML file in
`minicnn/recipes`."""

from pathlib import Path

from minicnn.errors import UnknownNameError
from minicnn.training.settings import Settings, read_settings

_FOLDER = Path(__file__).parent.parent / "recipes"
DEFAULT = "default"  # what `minicnn train` does


def recipes() -> dict[str, Path]:
    """The files of the recipes by name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.toml"))}


def recipe_file(name: str) -> Path:
    """The file of the recipe ``name``; raises `UnknownNameError` with the near names."""
    files = recipes()
    if name not in files:
        raise UnknownNameError("recipe", name, files, "--config takes a file of your own")
    return files[name]


def recipe(name: str) -> Settings:
    """The settings of a recipe, for `Trainer`; its network is the preset ``settings.model``.

    Raises `UnknownNameError`, which lists the near names.

    >>> recipe("mnist-10s").data
    'mnist'
    """
    return read_settings(recipe_file(name))
