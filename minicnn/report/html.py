"""`report.html`: a run as one self-contained page, without scripts and without anything from the
network.

Pictures are inside, as data URIs. Colours follow the reader's light or dark setting; pictures keep
a white ground.
"""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.compare import RunCurves
from minicnn.network.network import Network

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
.wide { overflow-x: auto; }
img { display: block; width: 100%; background: #fff; border-radius: .4rem; margin: .5rem 0; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 30rem) { table { font-size: .8rem; } th, td { padding-right: .4rem; } }
"""
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def picture(path: Path, words: str) -> str:
    """The picture in the file, inside the page; ``words`` say what it shows."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:{_TYPES[path.suffix]};base64,{data}"
    return f'<div class="wide" tabindex="0"><img src="{source}" alt="{html.escape(words)}"></div>\n'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; all columns but the first stand to the right."""
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in columns)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide" tabindex="0"><table>\n{body}</table></div>\n'


def _short(value: object) -> str:
    """``value`` as JSON has it, with its numbers rounded."""
    plain = json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.6g}"))
    return json.dumps(plain)


def run_page(
    name: str,
    network: Network,
    evaluation: Evaluation,
    run: RunCurves | None,
    sections: Iterable[tuple[str, str]],
) -> str:
    """The page: what the network reached, the ``sections`` (title, HTML), and the settings and
    circumstances of ``run``."""
    error = (evaluation.accuracy * (1 - evaluation.accuracy) / evaluation.images) ** 0.5
    loss = "" if evaluation.loss is None else f", loss {evaluation.loss:.4f}"
    facts = [
        f"accuracy {100 * evaluation.accuracy:.2f} % ± {100 * error:.2f} on {evaluation.images:,} images{loss}",
        f"{network.name}, {network.parameter_count:,} parameters",
    ]
    after = []
    if run is not None and run.report:
        facts.append(f"trained for {run.report['seconds']:.1f} s: {run.report['explanation']}")
        facts += [
            f"warning after epoch {warning['epoch']}: {warning['text']}"
            for warning in run.report.get("warnings", ())
        ]
        after = [(title, run.report[title]) for title in ("settings", "machine", "versions")]
    every = [("", "".join(f"<p>{html.escape(fact)}</p>\n" for fact in facts)), *sections]
    for title, values in after:
        rows = [
            (key, value if isinstance(value, str) else _short(value))
            for key, value in values.items()
        ]
        every.append((title.capitalize(), table(("name", "value"), rows)))
    body = "".join(
        (f"<h2>{html.escape(title)}</h2>\n" if title else "") + content for title, content in every
    )
    title = html.escape(name)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
