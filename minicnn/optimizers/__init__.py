"""The built-in optimizers, one file each, found through the entry points like anybody's."""
