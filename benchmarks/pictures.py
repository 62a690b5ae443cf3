"""The pictures in the README, from a run of LeNet-5: `python benchmarks/pictures.py [FOLDER OF THE
RUN]`.

They go to benchmarks/pictures/, with 200 colours each, so that they stay small. Without a folder
the run is trained first, in one that is removed again.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from minicnn.cli import main

PICTURES = {  # file: command after the folder of the run, how the name of its picture begins
    "trajectories": (["--along", "random", "random", "--opt", "gd", "adam"], "surface-random"),
    "slice": (["--slice"], "slice"),
    "run": (["--along", "pc1", "pc2", "--starts", "0"], "surface-principal"),
}


def run(*command: str) -> None:
    """Call the command line; stop if it fails."""
    if main(list(command)) != 0:
        sys.exit(1)


def draw(run_folder: Path) -> None:
    """Write all pictures."""
    target = Path(__file__).parent / "pictures"
    with tempfile.TemporaryDirectory() as place:
        for name, (options, file) in PICTURES.items():
            run("landscape", str(run_folder), *options, "--output", place)
            (path,) = Path(place).glob(f"landscape-{file}*.png")
            picture = Image.open(path).convert("RGB")
            picture.quantize(200, dither=Image.Dither.NONE).save(
                target / f"{name}.png", optimize=True
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            run(
                "train",
                "--model",
                "lenet5",
                "--epochs",
                "5",
                "--record",
                "--output",
                f"{place}/run",
                "--quiet",
            )
            draw(Path(place) / "run")
