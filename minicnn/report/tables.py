"""The tables that verbs other than ``train`` print: where time went, an evaluation, predictions."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from minicnn.errors import literal
from minicnn.evaluation.metrics import Evaluation
from minicnn.evaluation.profile import Profile
from minicnn.report.console import accuracy, fixed, make_console, number, percent, say, table

LARGEST_MATRIX = 20  # classes


def profile_table(found: Profile) -> None:
    """Print where the time of an image went."""
    columns = ["layers", "operation", "pass", "µs", "% of time", "Gflop/s", "% of tile", "GB/s"]
    rows = [
        (
            row.layers,
            row.operation,
            row.direction,
            number(row.microseconds, ".2f"),
            percent(row.share, 1),
            number(row.gflops, ".1f"),
            percent(row.tile_share, 0),
            number(row.gigabytes, ".1f"),
        )
        for row in found.rows
    ]
    title = (
        f"{found.network}, one thread: {found.microseconds:,.1f} µs an image, over {found.images:,} "
        f"images; the register tile reaches {found.tile_gflops:.0f} Gflop/s"
    )
    table(title, columns, rows)


def evaluation_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print loss, accuracy, images a second, precision, recall and F1 of each class or label, and
    the confusion matrix; of values R² and the errors of each output.

    The matrix is left out, and a line says so, for more than 20 classes and where the console is
    too narrow for it.
    """
    console = console or make_console()
    classes, confusion = evaluation.classes, evaluation.confusion
    say(console, f"loss      {fixed(evaluation.loss)}")
    if not evaluation.errors:
        say(console, f"accuracy  {accuracy(evaluation)}")
    say(console, f"images    {evaluation.images:,}, {evaluation.images_per_second:,.0f} images/s")
    seconds, compiling = evaluation.seconds, evaluation.compile_seconds
    say(console, f"time      {seconds:.1f} s, {compiling:.1f} s compiling")
    say(console)
    if evaluation.errors:
        errors = [
            (each.name, *map(fixed, (each.r2, each.mae, each.rmse))) for each in evaluation.errors
        ]
        columns = ["output", "R²", "mean absolute error", "root mean square error"]
        table("", columns, errors, console)
        return
    rows = [(name, images, *map(percent, shares)) for name, images, *shares in evaluation.by_class]
    table("", ["class", "images", "precision %", "recall %", "F1 %"], rows, console)
    if not confusion:
        return
    say(console)
    widest = max(len(f"{count:,}") for counts in confusion for count in counts)
    width = 10 + len(classes) * (widest + 2)  # at least 10 for the names
    if len(classes) > LARGEST_MATRIX:
        why = f"{len(classes)} classes, shown for at most {LARGEST_MATRIX}"
    elif width > console.width:
        why = f"it needs {width} columns, the console has {console.width}"
    else:
        numbers = map(str, range(len(classes)))
        rows = [(f"{i} {name}", *confusion[i]) for i, name in enumerate(classes)]
        title = "confusion matrix (row: true class, column: predicted class)"
        table(title, ["", *numbers], rows, console)
        return
    say(console, f"confusion matrix left out: {why}")


def most_probable(
    row: Sequence[float], classes: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """(class, probability) of the ``top`` most probable; of equal ones the first class wins."""
    return [(classes[k], row[k]) for k in sorted(range(len(row)), key=lambda k: -row[k])[:top]]


def predictions_table(
    names: Sequence[str],
    probabilities: Sequence[Sequence[float]],
    classes: Sequence[str],
    runners_up: int = 2,
    console: Console | None = None,
    has_header: bool = True,
) -> None:
    """Print, an image a row, its name, its most probable class with the probability, and the next
    ``runners_up``.

    ``probabilities`` [N, K] are those of the N names and K classes; of equal ones the first class
    wins. A row is a line, however narrow the console is.
    """
    console = console or make_console()
    names, classes = [literal(name) for name in names], [literal(name) for name in classes]
    widest_name, widest_class = (
        max(map(cell_len, ["image", *texts])) for texts in (names, classes)
    )

    def line(name: str, label: str, probability: str, others: str) -> str:
        name, label = set_cell_size(name, widest_name), set_cell_size(label, widest_class)
        return f"{name}  {label}  {probability:>13}  {others}".rstrip()

    if has_header:
        others = "runners-up (probability %)" if runners_up else ""
        say(console, line("image", "label", "probability %", others), style="bold")
    for name, row in zip(names, probabilities, strict=True):
        (label, first), *rest = most_probable(row, classes, 1 + runners_up)
        next_best = ", ".join(f"{other} {percent(probability)}" for other, probability in rest)
        print(line(name, label, percent(first), next_best), file=console.file)
