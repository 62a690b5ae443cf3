"""A row of the results, and what is needed to measure one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from floor import Tile
from peers.jobs import Peer
from timing import Effort, Spread


@dataclass
class Row:
    """What one row found. All ratios are medians over repetitions, with the lowest and the highest.

    ``faster_than``: how many times faster minicnn is than each peer; ``best_peer`` the one with the
    least median time. ``over_floor``: minicnn's time as a multiple of the floor. ``share``: the
    speed as a share of that of ``share_of``. ``figures``: seconds, megabytes and whatever is no
    ratio, by name. ``microseconds`` an image are for diagnosis within this run alone.
    """

    group: str
    name: str
    threads: int
    faster_than: dict[str, Spread] = field(default_factory=dict)
    best_peer: str | None = None
    over_floor: Spread | None = None
    share: Spread | None = None
    share_of: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    microseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What all rows share."""

    effort: Effort
    peers: list[Peer]
    tile: Tile


@dataclass(frozen=True)
class Task:
    """A row to be measured; ``headline`` rows are those that ``--quick`` runs too."""

    group: str
    name: str
    threads: int
    run: Callable[[Context], Row]
    headline: bool = False

    @property
    def title(self) -> str:
        """What ``--only`` selects by."""
        return title_of(self)


def title_of(row: Task | Row) -> str:
    """Group, name and, where rows differ in it, the number of threads."""
    threads = (
        ""
        if row.group in ("start", "memory")
        else f", {row.threads} thread{'s' if row.threads > 1 else ''}"
    )
    return f"{row.group}: {row.name}{threads}"


class RowFailed(Exception):
    """A row that cannot be measured: minicnn and a peer compute different results, or a process
    failed."""
