"""The built-in losses, found through entry points like those of third-party plugins."""
