"""The data sets that have a name: what they are, where they are published, and where a copy may
already lie."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minicnn.data.cifar10 import CIFAR10_CLASSES

EMBEDDED = Path(__file__).parent / "embedded"

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _idx_files(*md5: str) -> dict[str, str]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {f"{name}-ubyte.gz": digest for name, digest in zip(names, md5, strict=True)}


@dataclass(frozen=True)
class KnownSet:
    """A data set with a name. ``files`` maps each published file to its MD5; none for what comes
    with minicnn.

    ``places`` are relative to a root that the user keeps data in, ``elsewhere`` are fixed.
    """

    classes: tuple[str, ...]
    licence: str
    address: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


KNOWN = {
    "fashion-mnist-12k": KnownSet(_FASHION, "MIT, (c) 2017 Zalando SE"),
    "mnist": KnownSet(
        classes=tuple("0123456789"),
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        address="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=_idx_files(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        places=("mnist", "mnist.npz", "MNIST/raw"),
        elsewhere=("~/.keras/datasets/mnist.npz",),
    ),
    "fashion-mnist": KnownSet(
        classes=_FASHION,
        licence="MIT, (c) 2017 Zalando SE",
        address="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=_idx_files(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        places=("fashion-mnist", "fashion-mnist.npz", "FashionMNIST/raw"),
        elsewhere=("~/.keras/datasets/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
    "kmnist": KnownSet(
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        licence="CC BY-SA 4.0, ROIS-DS Center for Open Data in the Humanities",
        address="http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        files=_idx_files(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        places=("kmnist", "kmnist.npz", "KMNIST/raw"),
    ),
    "cifar10": KnownSet(
        classes=CIFAR10_CLASSES,
        licence="none stated; cite Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        address="https://www.cs.toronto.edu/~kriz/",
        files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        places=(
            "cifar10",
            "cifar10.npz",
            "cifar-10-batches-py",
            "cifar-10-batches-bin",
            "cifar-10-python.tar.gz",
            "cifar-10-binary.tar.gz",
        ),
    ),
}


def cache_folder(name: str) -> Path:
    """Where `fetch` puts a set: below $MINICNN_CACHE, else $XDG_CACHE_HOME/minicnn, else
    ~/.cache/minicnn."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MINICNN_CACHE") or Path(caches, "minicnn")) / "datasets" / name


def candidates(name: str) -> list[Path]:
    """Every place where the known set ``name`` is looked for, in order: $MINICNN_DATA, ./data,
    elsewhere, the cache."""
    roots = [Path(root) for root in (os.environ.get("MINICNN_DATA"), "data") if root]
    own = [root.expanduser() / place for root in roots for place in KNOWN[name].places]
    return [
        *own,
        *(Path(place).expanduser() for place in KNOWN[name].elsewhere),
        cache_folder(name),
    ]
