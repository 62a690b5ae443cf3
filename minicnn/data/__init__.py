"""Images with labels: from files of many formats to uint8 or float32 arrays, one file per format."""

from minicnn.data.catalog import load_dataset
from minicnn.data.dataset import Dataset, Split, stratified_split

__all__ = ["Dataset", "Split", "load_dataset", "stratified_split"]
