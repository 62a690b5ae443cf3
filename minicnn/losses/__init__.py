"""The built-in losses, one file each, found through the entry points like anybody's."""
