"""Training over MPI, by ranks of their own: the same bits as threads give, and the end of all when one ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn.data import load_dataset
from minicnn.training.checkpoint import load_checkpoint
from minicnn.training.inputs import fingerprint
from tests.data.idx_files import write_idx
from tests.training import small

RANKS = Path(__file__).parent / "ranks.py"
MPIEXEC = Path(sys.executable).parent / "mpiexec"


def mpiexec(ranks, *command, **environment):
    """What ``ranks`` processes of this Python did with ``command``."""
    return subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def train(output, *options):
    """A run of the command line as long as nobody ends it, once its first checkpoint is there."""
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "minicnn", "train", "--distributed"]
    options = ("--model", "mlp", "--limit", "300", "--threads", "1", *options)
    run = subprocess.Popen(
        [*command, *options, "--epochs", "100000", "--output", output],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (output / "last.safetensors").exists():
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.02)
    return run


def process_of(rank, run):
    """The process of a rank that ``run`` started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"PMI_RANK=%d" % rank in variables and str(run.args[-1]).encode() in command:
            return int(folder.name)
    raise AssertionError("no such process")


def of_ranks(ranks, threads, cores=2):
    result = mpiexec(ranks, RANKS, threads, "distributed", NUMBA_NUM_THREADS=str(cores))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def of_threads(threads):
    result = subprocess.run(
        [sys.executable, RANKS, str(threads), "alone"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def two_threads():
    return of_threads(2)


@pytest.fixture(scope="module")
def two_ranks(two_threads):
    return of_ranks(2, 1)


@pytest.mark.parametrize("name", ["plain", "normalized"])
def test_two_ranks_give_the_bits_of_two_threads(two_threads, two_ranks, name):
    assert two_ranks[name] == two_threads[name]


@pytest.mark.slow
def test_four_shards_give_the_same_bits_however_ranks_have_them():
    expected = of_threads(4)
    for ranks, threads in ((4, 1), (2, 2), (1, 4)):
        found = of_ranks(ranks, threads, cores=4)
        assert [found[name] for name in ("plain", "normalized")] == [
            expected[name] for name in ("plain", "normalized")
        ]


def test_statistics_of_each_rank_alone_are_others(two_threads, two_ranks):
    found, expected = two_ranks["fast"]["epochs"][-1], two_threads["fast"]["epochs"][-1]
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.2)
    assert found["train_loss"] != expected["train_loss"]


def test_buckets_that_overlap_the_backward_pass_give_the_same_sums():
    result = mpiexec(2, RANKS, "overlapped")  # of two numbers there is one sum
    assert result.returncode == 0, result.stderr
    for name, (same, sums) in json.loads(result.stdout).items():
        assert same, name
        assert sums > 1.5, name


def test_checkpoints_are_those_of_one_process(tmp_path):
    small.train(tmp_path / "straight", epochs=3)
    small.train(tmp_path / "parts", epochs=1)
    assert mpiexec(2, RANKS, "resume", tmp_path / "parts").stderr == ""
    assert load_checkpoint(tmp_path / "parts" / "last.safetensors").progress.counters.epoch == 3
    small.resume(tmp_path / "parts", epochs=3, threads=2)
    for file in ("last", "model"):
        assert small.tensors(tmp_path / "parts", file) == small.tensors(tmp_path / "straight", file)


def ends(process):
    """Whether a process ends within ten seconds; what nobody has waited for yet has ended."""
    stat = Path(f"/proc/{process}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_with_one_line(tmp_path, rank):
    run = train(tmp_path / "run")
    process, other = process_of(rank, run), process_of(1 - rank, run)
    os.kill(process, signal.SIGKILL)
    _, errors = run.communicate(timeout=10)
    assert run.returncode != 0 and ends(other)
    (line,) = [line for line in errors.splitlines() if not line.startswith("    !")]
    assert line.startswith(f"minicnn: error: rank {rank} (process {process} on ")
    assert "killed or out of memory" in line
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").progress.counters.epoch > 1


def test_what_mpi_says_of_a_rank_that_is_gone_waits_for_who_it_was():
    result = mpiexec(2, RANKS, "gone")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("    !")]
    assert line.startswith("minicnn: error: rank 1 (process ") and "killed or out of memory" in line


def test_an_interrupt_saves_and_ends_all(tmp_path):
    run = train(tmp_path / "run", "--quiet")
    run.send_signal(signal.SIGINT)
    out, errors = run.communicate(timeout=20)
    assert run.returncode == 130, errors
    assert (
        "all is saved" in " ".join(out.split()) and errors.count("stopping after this batch") == 1
    )
    assert json.loads((tmp_path / "run" / "report.json").read_text())["reason"] == "interrupted"


def test_an_interrupt_while_data_are_read_ends_all_with_a_word(tmp_path):
    waits = "lambda *_, **__: (print('reads', flush=True), time.sleep(60))"
    change = f"import time, minicnn.data as data; data.load_dataset = {waits}"
    code = f"import sys; {change}; from minicnn.cli import main; sys.exit(main())"
    command = [MPIEXEC, "-n", "2", sys.executable, "-c", code, *launch()[3:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
    run = subprocess.Popen(command, text=True, **pipes)
    assert run.stdout.readline() == "reads\n"
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 130, errors
    assert [line for line in errors.splitlines() if line] == ["minicnn: interrupted"]


def test_an_interrupt_of_one_rank_ends_all_with_a_word():
    result = mpiexec(2, RANKS, "interrupt")
    assert (result.returncode, result.stderr) == (130, "minicnn: interrupted\n")


def test_what_is_no_number_on_one_rank_ends_all():
    result = mpiexec(2, RANKS, "nan")
    assert result.returncode == 1
    assert result.stderr.count("Traceback") == 1
    assert "batch 4, on rank 1; the first weights are kept" in result.stderr


def test_an_error_on_one_rank_ends_all_and_says_where():
    result = mpiexec(2, RANKS, "error")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("minicnn: error: ArithmeticError: on purpose (") and "ranks.py" in line
    assert ", on rank 1 (process " in line and line.endswith("; all ranks end")


def launch(*options):
    return [sys.executable, "-m", "minicnn", "train", "--distributed", "--limit", "300", *options]


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([launch("-b", "2")] * 3, "--batch-size 2 gives work to as many ranks, and there are 3"),
        ([launch(), launch("--seed", "7")], "rank 1 differs from rank 0 in seed: 7, not 0"),
        ([launch("--data", "nowhere")] * 2, "unknown data set 'nowhere'"),
        ([launch("--epoch", "3")] * 2, "did you mean --epochs?"),
    ],
    ids=["ranks", "settings", "data", "option"],
)
def test_a_wrong_launch_is_one_line(tmp_path, commands, message):
    words = [word for command in commands for word in (":", "-n", "1", *command)][1:]
    result = subprocess.run(
        [MPIEXEC, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert result.returncode in (1, 2)
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_the_mpirun_of_another_mpi_is_told(tmp_path, rank):
    started = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2"}
    result = subprocess.run(
        launch(),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, **started},
        check=False,
    )
    assert result.returncode == 1 and list(tmp_path.iterdir()) == []
    if rank == 0:
        assert "2 processes were started, but to mpi4py's MPI" in result.stderr
    assert len(result.stderr.splitlines()) == 1 - rank


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("import minicnn; minicnn.__version__ = '9'", "in version: 9, not "),
        (
            "import minicnn.training.inputs as inputs; inputs.fingerprint = lambda split: 'x'",
            "in images and labels: x, not ",
        ),
    ],
    ids=["version", "data"],
)
def test_another_machine_that_differs_is_one_line(tmp_path, change, message):
    usual = launch("--model", "softmax")
    code = f"import sys; {change}; from minicnn.cli import main; sys.exit(main())"
    other = [usual[0], "-c", code, *usual[3:]]
    words = [MPIEXEC, "-n", "1", *usual, ":", "-n", "1", *other]
    result = subprocess.run(
        words, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"minicnn: error: rank 1 differs from rank 0 {message}")


def test_mpi4py_without_an_mpi_is_told(tmp_path):
    result = subprocess.run(
        launch(),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "MPI4PY_LIBMPI": str(tmp_path / "none.so")},
        check=False,
    )
    assert result.returncode == 1 and list(tmp_path.iterdir()) == []
    (line,) = result.stderr.splitlines()
    assert "mpi4py finds no MPI library" in line and "pip install mpich" in line


def test_without_mpi4py_the_extra_is_named(tmp_path):
    code = (
        "import sys; sys.modules['mpi4py'] = None; from minicnn.cli import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "train", "--distributed"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.endswith("needs mpi4py: pip install 'minicnn-numba[mpi]'\n")


def test_one_rank_of_a_machine_reads_what_all_share():
    result = mpiexec(2, RANKS, "share")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[], True, "from rank 0", True]


def sets(folder):
    """A data set of 24 training and 5 test images in each format, by name: what the second of two
    ranks reads of the pixels is in all of them half, but nothing of what is packed."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (24, 480, 481), np.uint8), np.arange(24, dtype=np.uint8) % 3
    arrays = {"x_train": x, "y_train": y, "x_test": x[:5], "y_test": y[:5]}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    for name, suffix in (("idx", ""), ("idx.gz", ".gz")):
        (folder / name).mkdir()
        for part, count in (("train", 24), ("t10k", 5)):
            write_idx(folder / name / f"{part}-images-idx3-ubyte{suffix}", x[:count])
            write_idx(folder / name / f"{part}-labels-idx1-ubyte{suffix}", y[:count])
    (folder / "cifar").mkdir()
    for batch in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = rng.integers(0, 256, (60, 3073), np.uint8)
        records[:, 0] = np.arange(60) % 10
        (folder / "cifar" / f"{batch}.bin").write_bytes(records.tobytes())
    for split, count in (("train", 24), ("test", 5)):
        for i in range(count):
            place = folder / "folder" / split / f"{'abc'[i % 3]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[i]).save(place / f"{split}{i:02}.png")
    for kind in ("zip", "gztar"):
        shutil.make_archive(folder / f"archive-{kind}", kind, folder / "folder")
    return [path for path in sorted(folder.iterdir()) if "ubyte" not in path.name]


def test_each_rank_reads_its_part_and_none_holds_what_all_share(tmp_path):
    paths = sets(tmp_path)
    result = mpiexec(2, RANKS, "read", *paths)
    assert result.returncode == 0, result.stderr
    for path, (first, second) in zip(paths, json.loads(result.stdout), strict=True):
        alone = [fingerprint(split) for split in load_dataset(path).splits.values()]
        assert first[3] == second[3] == alone, path
        name = path.name
        if "archive" in name or name == "folder":
            files = sorted({*first[0], *second[0]})
            assert len(files) == 29 and len(first[0]) + len(second[0]) == 31, (
                path
            )  # two are looked at
            assert len(second[0]) == 12 + 3, path
        else:
            assert second[1] == 0 if "packed" in name or "gz" in name else second[1] > first[1] / 2
        if name in ("stored.npz", "idx", "packed.npz", "idx.gz", "folder"):
            assert max(first[2], second[2]) < 0.7, path


def test_an_image_that_another_rank_cannot_read_is_one_line(tmp_path):
    for i in range(12):
        (tmp_path / "set" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (9 + (i == 11), 9)).save(tmp_path / "set" / "ab"[i % 2] / f"{i:02}.png")
    result = mpiexec(2, *launch("--data", tmp_path / "set")[1:])
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "11.png is 9x10 grey, but" in line and line.endswith(
        "bring all images together with --resize"
    )


def test_too_little_room_for_what_is_shared_is_one_line(tmp_path):
    change = "import minicnn.training.shared as at; at._shared_room = lambda: 1e6"
    code = f"import sys; {change}; from minicnn.cli import main; sys.exit(main())"
    result = mpiexec(2, "-c", code, *launch("--output", tmp_path / "run")[3:])
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "/dev/shm, which has room for 1 MB, and these take 8: enlarge it" in line


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux")
def test_the_data_are_in_the_memory_of_a_machine_once():
    result = mpiexec(2, RANKS, "memory")
    assert result.returncode == 0, result.stderr
    assert 0.9 < json.loads(result.stdout) < 1.2  # two copies would be 2


@pytest.mark.slow
def test_ranks_on_gpus_train_as_those_on_the_cpu_do():
    cpu = mpiexec(2, RANKS, "device", "cpu")
    found = []
    for through in ((), ("memory",)):
        command = "-W", "ignore", RANKS, "device", "cuda", *through
        gpu = mpiexec(2, *command, NUMBA_ENABLE_CUDASIM="1")
        assert gpu.returncode == 0, gpu.stderr
        found.append(json.loads(gpu.stdout))
        assert found[-1][:3] == pytest.approx(json.loads(cpu.stdout)[:3], rel=1e-5)
    (*host, _), (*memory, sums) = found
    assert memory == host and sums == 3  # a sum a batch, from GPU to GPU, in the same order


def test_global_statistics_on_gpus_are_refused():
    command = [*launch("--device", "cuda", "--model", "resnet8"), "--data", "fashion-mnist-12k"]
    result = mpiexec(2, *command[1:], NUMBA_ENABLE_CUDASIM="1")
    assert result.returncode == 2
    assert "choose --batch-statistics local" in result.stderr


def scripts():
    text = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text("utf-8")
    section = text.partition("## Over several machines")[2].partition("\n## ")[0]
    return [block.partition("\n```")[0] for block in section.split("```sh\n")[1:]]


def test_the_scripts_for_clusters_are_shell():
    slurm, hosts = scripts()
    assert "#SBATCH" in slurm and "hosts" in hosts
    for script in (slurm, hosts):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)


def test_the_script_without_slurm_starts_a_rank_on_each_host(tmp_path):
    x, y = small.arrays(60)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    (tmp_path / "mpirun").write_text(f'#!/bin/sh\nexec "{MPIEXEC}" -launcher fork "$@"\n')
    (tmp_path / "minicnn").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m minicnn "$@"\n')
    for name in ("mpirun", "minicnn"):  # all hosts are this one, and to MPI they are four
        (tmp_path / name).chmod(0o755)
    script = (
        scripts()[1].replace("/shared/set.npz", "set.npz").replace("--threads 16", "--threads 1")
    )
    script = script.replace("-b 1024", "-b 8 --model softmax --epochs 1 --json --quiet")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-e"],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["epoch"] == 1
    assert load_checkpoint(tmp_path / "runs" / "four" / "last.safetensors")


def test_more_threads_than_cores_are_a_warning():
    cores = str(os.cpu_count())
    command = [*launch("--dry-run", "--model", "softmax", "--threads", cores)[1:]]
    result = mpiexec(2, *command, NUMBA_NUM_THREADS=cores)
    assert result.returncode == 0 and result.stdout.startswith("dry run: everything fits")
    (line,) = result.stderr.splitlines()
    assert f"2 ranks of {cores} threads are {cores} more on a machine than its cores" in line
