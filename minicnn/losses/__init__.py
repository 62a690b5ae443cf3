"""The built-in losses, found through the entry points like anybody's."""
