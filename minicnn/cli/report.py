"""What `evaluate --report` and `train --report` write: pictures, a table as CSV, and one page,
`report.html`."""

from pathlib import Path
from typing import TYPE_CHECKING

from minicnn.cli.common import Pictures, write_results

if TYPE_CHECKING:
    from minicnn.data import Dataset
    from minicnn.evaluation.metrics import Evaluation
    from minicnn.inference import Model
    from minicnn.insight.mistakes import Mistake


def write_page(
    model: "Model",
    dataset: "Dataset",
    evaluation: "Evaluation",
    run_folder: Path,
    output: Path,
    tta: str | None = None,
) -> "tuple[list[Mistake], list[str]]":
    """Write all to ``output``; curves, settings and landscapes are those that ``run_folder`` holds.

    Returns the mistakes, and the names of the files. Without matplotlib there is the CSV alone, and
    a warning.
    """
    from minicnn.insight.compare import read_run
    from minicnn.insight.mistakes import confident_mistakes, first_layer_filters
    from minicnn.report import evaluation_plots, html, run_plots
    from minicnn.storage import write_atomically
    from minicnn.training.record import PATH_FILE, load_record

    test = dataset.test
    assert test is not None
    found = confident_mistakes(model, test.images, test.labels, maximum=dataset.maximum, tta=tta)
    run = read_run(run_folder) if (run_folder / "metrics.jsonl").exists() else None
    filters = first_layer_filters(model)
    columns = [
        "class",
        "images",
        "precision",
        "recall",
        "f1",
        *(f"as {name}" for name in evaluation.classes),
    ]
    rows = [
        (*figures, *counts)
        for figures, counts in zip(evaluation.by_class, evaluation.confusion, strict=True)
    ]
    pictures: Pictures = {}
    if run is not None and run.epochs:
        pictures["curves"] = lambda: run_plots.run_curves(run)
    if (run_folder / PATH_FILE).exists():
        record = load_record(run_folder)
        pictures["health"] = lambda: run_plots.health(record)
    pictures["confusion"] = lambda: evaluation_plots.confusion_matrix(evaluation)
    if found:
        pictures["mistakes"] = lambda: evaluation_plots.worst_mistakes(
            test.images, found, model.classes, dataset.maximum
        )
    if filters is not None:
        pictures["filters"] = lambda: evaluation_plots.filters(*filters)
    files = write_results(output, {"evaluation": (columns, rows)}, pictures)
    if len(files) == 1:
        return found, files
    sections = [
        (name.capitalize(), html.picture(output / f"{name}.svg", WORDS[name])) for name in pictures
    ]
    cells = [
        (name, f"{images:,}", *("–" if share is None else f"{100 * share:.2f}" for share in shares))
        for name, images, *shares in evaluation.by_class
    ]
    sections.append(
        ("Classes", html.table(["class", "images", "precision %", "recall %", "F1 %"], cells))
    )
    links_left_out = (path for path in run_folder.glob("landscape*.png") if not path.is_symlink())
    for path in sorted(links_left_out):
        sections.append(
            (
                path.stem.replace("-", " ").capitalize(),
                html.picture(path, "the loss around the weights"),
            )
        )
    name = f"{run_folder.resolve().name}: {model.network.name}"
    write_atomically(
        output / "report.html",
        html.run_page(name, model.network, evaluation, run, sections).encode(),
    )
    return found, ["report.html", *files]


WORDS = {  # what the pictures show, for whoever cannot see them
    "curves": "loss and accuracy of each epoch, on the training and on the validation images",
    "health": "gradient norms, update-to-weight ratios and dead units of the layers over the epochs",
    "confusion": "confusion matrix: images of each true class by the class that was predicted",
    "mistakes": "the wrongly classified images of which the network was most certain",
    "filters": "the weights of the first layer as pictures",
}
