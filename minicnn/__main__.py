"""``python -m minicnn``: the same as the console script ``minicnn``."""

import sys


def main() -> int:
    """Run the command line; Ctrl-C is one line while its modules are imported, too."""
    try:
        from minicnn.cli import main

        return main()
    except KeyboardInterrupt:
        print("minicnn: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
