"""The console report, on consoles of fixed width that write into memory; the clock stands still
unless moved."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.advice import Advice
from minicnn.report.console import ConsoleReporter, make_console, progress_bar, say, table
from minicnn.report.tables import evaluation_table, predictions_table
from minicnn.training.events import (
    BatchDone,
    CheckpointSaved,
    Compiled,
    EpochDone,
    Recorded,
    RunEnded,
    RunStarted,
)

SETTINGS = {
    "optimizer": "adam",
    "learning_rate": 0.001,
    "batch_size": 64,
    "seed": 0,
    "threads": 2,
    "hyperparameters": {"beta1": 0.9, "beta2": 0.999},
    "patience": None,
    "data": "fashion-mnist-12k",
}
STARTED = RunStarted("lenet5", 44426, 10800, 1200, 169, 1, 10, {}, SETTINGS)
EVALUATION = Evaluation(
    images=2000,
    loss=0.3412,
    accuracy=0.8765,
    precision=[0.9, None],
    recall=[0.8, float("nan")],
    confusion=[[900, 100], [147, 853]],
    classes=["[bold]T-shirt[/bold]/top", "[/]"],
    seconds=0.5,
    compile_seconds=0.1,
)
ENDED = RunEnded(
    "no improvement",
    "the validation loss has not improved for 3 epochs",
    epoch=7,
    best_epoch=4,
    seconds=41.2,
    compile_seconds=6.2,
    test=EVALUATION,
    output=Path("runs/a run"),
    files={"model.safetensors": "the best weights", "last.safetensors": "what --resume needs"},
)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def console(width=80, terminal=False, clock=None):
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        get_time=clock,
        _environ={"TERM": "xterm"},
        legacy_windows=False,
        color_system="standard" if terminal else None,
    )


def batch(number=1, epoch=1, **changes):
    figures = {
        "loss": 0.4321,
        "accuracy": 0.8512,
        "images": 64,
        "images_per_second": 14321.4,
        "epoch_seconds_left": 5.6,
        "seconds_left": 83.2,
    }
    return BatchDone(epoch, number, **(figures | changes))


def epoch(number=1, **changes):
    figures = {
        "train_loss": 0.51234,
        "train_accuracy": 0.8123,
        "validation_loss": 0.45678,
        "validation_accuracy": 0.8345,
        "learning_rate": 0.001,
        "gradient_norm": 1.2345,
        "seconds": 3.21,
        "best": False,
    }
    return EpochDone(number, **(figures | changes))


def reported(*events, **options):
    """What the events write to stdout and stderr where neither is a terminal."""
    out, err = console(), console()
    reporter = ConsoleReporter(out, err, **options)
    for event in events:
        reporter(event)
    return out.file.getvalue(), err.file.getvalue()


def printed(function, *args, width=80, terminal=False, **options):
    target = console(width, terminal)
    function(*args, console=target, **options)
    return target.file.getvalue()


def test_the_header_names_network_images_and_every_setting_that_is_set():
    out, err = reported(STARTED)
    assert "lenet5, 44,426 parameters" in out
    assert "10,800 for training, 1,200 for validation" in out
    for setting in (
        "optimizer=adam",
        "learning_rate=0.001",
        "batch_size=64",
        "seed=0",
        "threads=2",
    ):
        assert setting in out
    assert "hyperparameters.beta1=0.9" in out and "patience" not in out and "resumed" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert err == ""


def test_the_header_of_a_resumed_run_says_where_it_goes_on():
    out, _ = reported(RunStarted("mlp", 10, 20, 0, 1, 5, 10, {}, {}))
    assert "at epoch 5 of 10" in out


def test_numbers_of_many_digits_are_shortened():
    weights = {"ant": 0.5128205128205128, "bee": 1.25}
    out, _ = reported(RunStarted("mlp", 10, 20, 0, 1, 1, 1, {}, {"class_weights": weights}))
    assert "class_weights.ant=0.5128  class_weights.bee=1.25" in out


def test_figures_in_a_table_are_whole_however_narrow_the_console_is():
    out = io.StringIO()
    rows = [("convolution", 123_456, 7_890_123, 456_789)]
    table("", ("layer", "parameters", "multiply-adds", "bytes"), rows, Console(file=out, width=20))
    for figure in ("123,456", "7,890,123", "456,789", "convol"):
        assert figure in out.getvalue()


def test_a_width_of_no_columns_is_no_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    say(make_console(), "all of it")
    assert capsys.readouterr().out == "all of it\n"


def test_markup_and_emoji_codes_in_names_and_paths_are_printed_literally():
    run = RunStarted("[red]net[/red] :dog:", 1, 2, 0, 1, 1, 1, {}, {"data": "[/] :cat:"})
    end = RunEnded(
        "epochs done", "done", 1, 1, 1.0, 0.0, output=Path("[/b] :owl:"), files={"[i]": ":pig:"}
    )
    out, _ = reported(run, end)
    for text in ("[red]net[/red] :dog:", "data=[/] :cat:", "[/b] :owl:", "[i]  :pig:"):
        assert text in out


def test_compile_time_has_a_line_of_its_own():
    assert reported(Compiled(6.24))[0] == "compiling or loading kernels: 6.2 s\n"


def test_the_epoch_table_has_one_header_and_a_line_an_epoch_with_the_best_marked():
    out, err = reported(
        STARTED, epoch(1), CheckpointSaved(Path("model")), epoch(2, best=True), epoch(3)
    )
    lines = out.splitlines()[-5:]
    assert lines[0].split() == ["train", "train", "val", "val", "learning", "gradient"]
    assert lines[1].split() == [
        "epoch",
        "loss",
        "acc",
        "%",
        "loss",
        "acc",
        "%",
        "rate",
        "norm",
        "seconds",
        "best",
    ]
    assert lines[2].split() == ["1", "0.5123", "81.23", "0.4568", "83.45", "0.001", "1.23", "3.2"]
    assert [line.endswith("*") for line in lines[2:]] == [False, True, False]
    assert out.count("epoch ") == 1 and err == ""


def test_the_epoch_table_stays_aligned_and_within_80_columns_for_extreme_figures():
    extreme = epoch(
        99999,
        train_loss=1.5e9,
        train_accuracy=1.0,
        validation_loss=-123456.0,
        validation_accuracy=0.0,
        learning_rate=1.234e-05,
        gradient_norm=float("inf"),
        seconds=123456.7,
        best=True,
    )
    out, _ = reported(epoch(1, best=True), extreme)
    header, usual, unusual = out.splitlines()[1:]
    assert unusual.split() == [
        "99999",
        "1.50e+09",
        "100.00",
        "-1.23e+05",
        "0.00",
        "1.23e-05",
        "inf",
        "123456.7",
        "*",
    ]
    assert len(usual) == len(unusual) == len(header) <= 80
    for line in (usual, unusual):
        assert [line[i] for i in (5, 15, 23, 33, 41, 51, 61, 71)] == [" "] * 8


def test_none_and_not_a_number_are_shown_as_a_dash():
    out, _ = reported(
        epoch(validation_loss=None, validation_accuracy=None, train_loss=float("nan"))
    )
    assert out.splitlines()[-1].split() == ["1", "–", "81.23", "–", "–", "0.001", "1.23", "3.2"]
    assert "nan" not in out.lower() and "none" not in out.lower()


def test_a_second_run_gets_a_table_header_of_its_own():
    out, _ = reported(STARTED, epoch(), STARTED, epoch())
    assert out.count("seconds  best") == 2


def test_the_end_says_why_the_result_the_times_the_files_and_what_to_do_next():
    out, err = reported(STARTED, ENDED)
    end = out.split("stopped after")[1]
    assert "epoch 7, no improvement: the validation loss has not improved for\n    3 epochs" in end
    result = "loss 0.3412, accuracy 87.65 % ± 0.74 (2,000 images), weights of epoch 4"
    assert result in " ".join(end.split())
    assert "41.2 s training, 6.2 s compiling" in end
    assert "files     runs/a run\n" in end
    assert (
        "model.safetensors  the best weights\n" in end
        and "last.safetensors   what --resume needs\n" in end
    )
    assert "minicnn evaluate 'runs/a run/model.safetensors'\n" in end
    assert err == ""


def test_an_interrupted_run_says_how_to_resume():
    out, _ = reported(
        RunEnded("interrupted", "stopped by Ctrl-C", 2, 1, 1.0, 0.0, output=Path("runs/x"))
    )
    assert "minicnn train --resume runs/x\n" in out and "evaluate" not in out and "test" not in out


def test_a_run_without_a_folder_names_no_files():
    out, _ = reported(RunEnded("epochs done", "all 2 epochs are done", 2, 1, 1.0, 0.0))
    assert "files" not in out and "next" not in out


def test_quiet_leaves_the_end_lines():
    out, err = reported(STARTED, Compiled(1.0), batch(), epoch(), ENDED, quiet=True, log_interval=1)
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == ["stopped", "test", "files"]
    assert err == ""


def test_without_a_terminal_log_interval_gives_a_plain_line_every_n_batches():
    out, err = reported(STARTED, *(batch(number) for number in range(1, 8)), log_interval=3)
    assert err.splitlines() == [
        f"epoch 1/10  batch {number}/169  loss 0.432  acc 85.1 %  14,321 img/s  0:06/1:23 left"
        for number in (3, 6)
    ]
    assert "batch 3" not in out
    assert reported(STARTED, batch())[1] == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05"), (float("inf"), "–"), (float("nan"), "–")],
)
def test_time_left_reads_as_a_clock(seconds, text):
    _, err = reported(STARTED, batch(seconds_left=seconds, loss=float("nan")), log_interval=1)
    assert err.endswith(f"  0:06/{text} left\n") and "loss –" in err


def test_nothing_but_a_terminal_gets_escape_codes():
    out, err = reported(STARTED, Compiled(1.0), batch(), epoch(best=True), ENDED, log_interval=1)
    tables = printed(evaluation_table, EVALUATION) + printed(
        predictions_table, ["a"], [[0.1, 0.9]], ["x", "y"]
    )
    assert err and "\x1b" not in out + err + tables
    assert "\x1b[1m" in printed(evaluation_table, EVALUATION, terminal=True)


class Terminal:
    """A reporter whose stdout and stderr are one terminal, as for a person."""

    def __init__(self, width=80, **options):
        self.clock = Clock()
        self.screen = console(width, terminal=True, clock=self.clock)
        err = console(width, terminal=True, clock=self.clock)
        err.file = self.screen.file
        self.reporter = ConsoleReporter(self.screen, err, **options)

    def after(self, *events):
        """What the events add to the screen."""
        before = len(self.screen.file.getvalue())
        for event in events:
            self.reporter(event)
        return self.screen.file.getvalue()[before:]


def test_a_terminal_shows_epoch_batch_loss_accuracy_speed_and_time_left_on_one_line():
    terminal = Terminal()
    assert "compiling or loading kernels" in terminal.after(STARTED)
    terminal.after(Compiled(1.0))
    bar = terminal.after(batch(12))
    for part in (
        "epoch 1/10",
        "━",
        "12/169",
        "loss 0.432",
        "acc 85.1 %",
        "14,321 img/s",
        "0:06/1:23 left",
    ):
        assert part in bar
    assert "\n" not in bar


def test_the_bar_is_drawn_anew_only_when_time_has_passed():
    terminal = Terminal()
    terminal.after(STARTED, batch(1))
    assert terminal.after(batch(2), batch(3)) == ""
    terminal.clock.now += 1
    assert "4/169" in terminal.after(batch(4))


def test_the_bar_is_taken_away_before_an_epoch_line_and_comes_back_after_it():
    terminal = Terminal()
    terminal.after(STARTED, Compiled(1.0), batch(169), epoch(1))
    line = terminal.after(batch(169, epoch=2), epoch(2))
    bar, shown = line.split("\x1b[1A\x1b[2K")  # one line up and erased
    assert "epoch 2/10" in bar and "\x1b[?25h" in bar  # the cursor is back
    assert shown == "    2    0.5123   81.23    0.4568   83.45     0.001      1.23       3.2\n"
    assert "epoch 3/10" in terminal.after(batch(1, epoch=3))


def test_close_takes_the_bar_away_and_restores_the_cursor_and_may_be_called_twice():
    terminal = Terminal()
    terminal.after(STARTED, batch())
    before = len(terminal.screen.file.getvalue())
    terminal.reporter.close()
    terminal.reporter.close()
    assert terminal.screen.file.getvalue()[before:].endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_the_bar_leaves_stdout_and_stderr_as_they_were():
    streams = sys.stdout, sys.stderr
    terminal = Terminal()
    terminal.after(STARTED, batch())
    assert sys.stdout is streams[0]
    terminal.after(epoch())
    assert (sys.stdout, sys.stderr) == streams


def test_quiet_draws_no_bar_on_a_terminal():
    assert Terminal(quiet=True).after(STARTED, Compiled(1.0), batch(), epoch()) == ""


def test_the_evaluation_shows_figures_classes_and_confusion_with_markup_printed_literally():
    lines = printed(evaluation_table, EVALUATION).splitlines()
    text = "\n".join(line.rstrip() for line in lines)
    assert "loss      0.3412" in text and "87.65 % ± 0.74" in text and "4,000 images/s" in text
    rows = [line.split() for line in lines]
    assert ["[bold]T-shirt[/bold]/top", "1,000", "90.00", "80.00", "84.71"] in rows
    assert ["[/]", "1,000", "–", "–", "–"] in rows
    assert ["0", "[bold]T-shirt[/bold]/top", "900", "100"] in rows and [
        "1",
        "[/]",
        "147",
        "853",
    ] in rows


def test_an_unknown_loss_is_a_dash():
    unknown = Evaluation(1, None, 1.0, [1.0], [1.0], [[1]], ["a"], 0.0, 0.0)
    assert "loss      –\n" in printed(evaluation_table, unknown)


def evaluation_of(classes, count=1):
    confusion = [[count] * classes for _ in range(classes)]
    names = [f"class {i}" for i in range(classes)]
    return Evaluation(
        classes**2, 1.0, 0.5, [0.5] * classes, [0.5] * classes, confusion, names, 1.0, 0.0
    )


def test_the_confusion_matrix_is_left_out_above_twenty_classes_and_a_line_says_so():
    assert "left out: 21 classes" in printed(evaluation_table, evaluation_of(21), width=200)
    shown = printed(evaluation_table, evaluation_of(20), width=200)
    assert "left out" not in shown and ["19", "class", "19"] + ["1"] * 20 in [
        row.split() for row in shown.splitlines()
    ]


def test_the_confusion_matrix_is_left_out_where_the_console_is_too_narrow():
    assert "it needs 100 columns, the console has 80" in printed(
        evaluation_table, evaluation_of(10, count=999_999)
    )
    assert "it needs" not in printed(evaluation_table, evaluation_of(10, count=9_999))


def test_long_class_names_are_folded_and_no_count_is_cut():
    long = evaluation_of(10, count=1234)
    long.classes[:] = ["a rather long name of a class, number " + str(i) for i in range(10)]
    shown = printed(evaluation_table, long)
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    matrix = shown.split("confusion matrix")[1]
    assert matrix.count("1,234") == 100


def test_predictions_show_name_label_probability_and_runners_up():
    classes = ["[red]cat", "dog", "newt", "owl"]
    shown = printed(
        predictions_table, ["a[0].png", "b.png"], [[0.7, 0.1, 0.15, 0.05], [0.25] * 4], classes
    )
    header, *rows = [line.split() for line in shown.splitlines()]
    assert header[0] == "image"
    assert rows == [
        ["a[0].png", "[red]cat", "70.00", "newt", "15.00,", "dog", "10.00"],
        ["b.png", "[red]cat", "25.00", "dog", "25.00,", "newt", "25.00"],
    ]


def test_predictions_of_two_classes_have_one_runner_up():
    shown = printed(predictions_table, ["x"], [[0.25, 0.75]], ["no", "yes"])
    assert shown.splitlines()[1].split() == ["x", "yes", "75.00", "no", "25.00"]


def test_a_table_puts_numbers_to_the_right_and_text_to_the_left():
    rows = [
        ("conv1", 156, "1.5 %", True),
        ("pool", None, "–", False),
        ("dense", 44426, "98.5 %", 0.25),
    ]
    shown = printed(table, "layers", ["name", "parameters", "share", "x"], rows)
    assert [line.rstrip() for line in shown.splitlines()] == [
        "layers",
        "name   parameters   share  x",
        "conv1         156   1.5 %  True",
        "pool            –       –  False",
        "dense      44,426  98.5 %  0.25",
    ]


def test_a_table_without_rows_or_title_is_its_header():
    assert printed(table, "", ["a", "b"], []).split() == ["a", "b"]


def test_control_characters_and_undecodable_bytes_are_written_as_escapes():
    shown = printed(table, "t\x1b[31m", ["c\n"], [["\x1b[2J"], ["a\nb"], ["\udcff"], ["æ 鞋 é"]])
    assert [line.rstrip() for line in shown.splitlines()] == [
        r"t\x1b[31m",
        r"c\n",
        r"\x1b[2J",
        r"a\nb",
        r"\udcff",
        "æ 鞋 é",
    ]


def test_wide_characters_keep_the_columns_aligned():
    rows = printed(table, "", ["name", "count"], [["鞋子", 1], ["shoe", 2]]).splitlines()[1:]
    assert rows[0].index("1") == rows[1].index("2") - 2  # each of the two takes two cells


def test_text_is_folded_where_the_console_is_narrow():
    shown = printed(table, "", ["name", "n"], [["x" * 50, 123456]], width=30)
    assert max(map(len, shown.splitlines())) <= 30 and shown.count("x") == 50 and "123,456" in shown


def test_numbers_are_not_folded_where_the_console_is_narrow():
    shown = printed(table, "", ["name", "n", "m"], [["word " * 3, "12345 %", "123456 %"]], width=20)
    assert "12345 %  123456 %" in shown


def test_lines_for_a_file_or_pipe_are_not_folded(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    table("", ["name", "n"], [["x" * 300, 1]])
    assert "x" * 300 in capsys.readouterr().out
    assert make_console(stderr=True).stderr


def test_the_report_package_and_the_json_lines_do_not_load_rich():
    code = "import sys, minicnn.report, minicnn.report.jsonl; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_warning_is_folded_below_the_row_of_its_epoch():
    screen = console(width=40)
    reporter = ConsoleReporter(screen, console())
    text = "dead units: 80 % of relu1 are dead; try a smaller learning rate"
    for event in (STARTED, epoch(1), Advice(1, "dead units", text)):
        reporter(event)
    *_, row, first, second = screen.file.getvalue().splitlines()
    assert row.split()[0] == "1"
    assert (first, second) == (
        "    ! dead units: 80 % of relu1 are",
        "      dead; try a smaller learning rate",
    )


def test_the_line_of_a_record_leaves_the_bar_where_it_is():
    quiet, screen = console(), console(terminal=True, clock=Clock())
    reporter = ConsoleReporter(quiet, screen)
    reporter(STARTED)
    drawn = screen.file.getvalue()
    reporter(Recorded(0.5, 2, {}, {}, {}, {}, {}, {}))
    assert screen.file.getvalue() == drawn
    reporter.close()


def test_a_progress_bar_shows_its_share_on_a_terminal_and_leaves_nothing():
    screen = console(terminal=True, clock=Clock())
    with progress_bar("looking", screen) as progress:
        progress(30, 100)
    text = screen.file.getvalue()
    assert "looking" in text and "30 %" in text and text.endswith("\x1b[1A\x1b[2K")


def test_a_progress_bar_is_silent_where_there_is_no_terminal():
    screen = console()
    with progress_bar("looking", screen) as progress:
        progress(1, 2)
    assert screen.file.getvalue() == ""


@pytest.mark.parametrize("width", [60, 80])
def test_lines_are_broken_between_words_below_the_end_of_their_label(width):
    screen = console(width=width, terminal=True)
    for event in (STARTED, epoch(1), epoch(2), ENDED):
        ConsoleReporter(screen, console())(event)
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith(" " * 10 + "data=") for line in lines) or width == 80
    assert [line.split()[-1] for line in lines if line.startswith("    1 ")] == ["3.2"]


@pytest.mark.parametrize("width", [60, 80])
def test_the_bar_keeps_its_numbers(width):
    clock = Clock()
    screen = console(width, True, clock)
    reporter = ConsoleReporter(console(), screen)
    reporter(STARTED)
    clock.now += 1
    reporter(batch(120))
    shown = screen.file.getvalue()
    left = "1:23 left" if width == 60 else "0:06/1:23 left"  # of the epoch, and of the run
    for figure in ("epoch 1/10", "120/169", "loss 0.432", "acc 85.1 %", left):
        assert figure in shown
    reporter.close()
