"""Reading TOML files that people write or find."""

import re
from pathlib import Path
from typing import Any

from minicnn.errors import SettingError

_MOST_BYTES, _MOST_DOTS = 1_000_000, 100  # a key of n dots takes time and memory by n squared


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises `SettingError`, which names the file, for one that cannot
    be read, is none, or nests absurdly deep. Bytes in it that are no UTF-8 become surrogates, as in
    the names of files."""
    import tomllib

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8-sig", "surrogateescape")
        unquoted = re.sub(r"""(["']).*?\1""", "", text)
        if len(text) > _MOST_BYTES or re.search(rf"([^.,=\n]*\.){{{_MOST_DOTS}}}", unquoted):
            raise RecursionError("it is too long or nests too deep")
        return tomllib.loads(text)
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from None
