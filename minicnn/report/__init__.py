"""Reports of runs: the console, JSON lines, pictures, pages. They consume
``minicnn.training.events``."""
