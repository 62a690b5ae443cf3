"""Reports: what a run says while it goes on (the console, JSON lines). They consume
``minicnn.training.events``."""
