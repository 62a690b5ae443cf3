"""Python threads that share a model, forked and spawned processes, Numba's own number of threads.

What forks runs in a process of its own, since a test process has threads of its own.
"""

import http.server
import subprocess
import sys
import textwrap
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from minicnn import Model, Trainer, preset
from minicnn.backends import cpu
from minicnn.kernels.cpu import infer_one

NETWORK = preset("lenet5", (28, 28, 1), 10)
X = np.random.default_rng(0).integers(0, 256, (400, 28, 28, 1)).astype(np.uint8)

START = """
    import multiprocessing, threading, time
    import numpy as np
    import minicnn

    network = minicnn.preset("lenet5", (28, 28, 1), 10)
    params = network.initialize(np.random.default_rng(0))
    model = minicnn.Model(network, params, tuple("0123456789"), threads=2)
    x = np.random.default_rng(0).integers(0, 256, (400, 28, 28, 1)).astype(np.uint8)

    def job(k):
        return model.predict(x)

    wide = minicnn.preset("vgg-small", (28, 28, 1), 10)  # of which threads share one image
    wide = minicnn.Model(
        wide, wide.initialize(np.random.default_rng(0)), tuple("0123456789"), threads=2
    )

    def ones(k):
        return np.concatenate([wide.logits(x[i : i + 1]) for i in range(k, k + 50)])

    def train(k):
        trainer = minicnn.Trainer(network, epochs=1, threads=2, batch_size=50)
        trainer.fit(x, np.arange(len(x)) % 10)
        return trainer.model.params
"""


def run(code):
    """What a new process prints; it must end by itself."""
    command = [sys.executable, "-c", textwrap.dedent(START) + textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()


def test_threads_that_share_a_model_get_their_own_answers():
    params = NETWORK.initialize(np.random.default_rng(0))
    model = Model(NETWORK, params, tuple("0123456789"), threads=2)
    expected, wrong = model.logits(X), []

    def serve(begin):
        for i in range(begin, len(X), 4):
            if not np.array_equal(model.logits(X[i : i + 1]), expected[i : i + 1]):
                wrong.append(i)
            if i % 40 < 4 and not np.array_equal(model.logits(X), expected):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=(begin,)) for begin in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("images", "module", "name", "work"),
    [(1, infer_one, "infer_one", 1), (2, cpu.infer, "infer", 4)],
    ids=["one image", "two images"],
)
def test_calls_at_once_have_workspaces_of_their_own(monkeypatch, images, module, name, work):
    params = NETWORK.initialize(np.random.default_rng(0))
    model = Model(NETWORK, params, tuple("0123456789"), threads=1)
    model.logits(X[:images])
    gate, infer, places = threading.Barrier(2), getattr(module, name), []

    def together(*arguments):
        places.append(arguments[work].ctypes.data)
        gate.wait(60)
        infer(*arguments)

    monkeypatch.setattr(module, name, together)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: model.logits(X[i : i + images]), range(2)))
    assert len(set(places)) == 2


def test_numbas_number_of_threads_is_left_as_it_was():
    numba.set_num_threads(1)
    try:
        trainer = Trainer(NETWORK, epochs=1, threads=2, batch_size=50)
        trainer.fit(X, np.arange(len(X)) % 10)
        trainer.model.logits(X)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


@pytest.mark.parametrize("used", [True, False], ids=["after threads", "before any"])
def test_forked_processes_predict_and_train(used):
    code = """
        if %r:
            expected, trained = job(0), train(0)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = pool.map_async(job, range(4)).get(timeout=100)
            weights = pool.map_async(train, range(2)).get(timeout=100)
        if not %r:
            expected, trained = job(0), train(0)
        print(all((a == expected).all() for a in answers), all((w == trained).all() for w in weights))
    """
    assert run(code % (used, used)) == ["True", "True"]


def test_threads_that_share_a_model_of_one_image_get_their_own_answers():
    code = """
        expected, wrong = wide.logits(x), []
        def serve(begin):
            for k in range(begin, 300, 4):
                wrong.extend([k] * (not (ones(k) == expected[k : k + 50]).all()))
        threads = [threading.Thread(target=serve, args=(begin,)) for begin in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(wrong == [])
    """
    assert run(code) == ["True"]


def test_forked_processes_share_one_image_between_threads_of_their_own():
    code = """
        def names(k):
            return [thread.name for thread in threading.enumerate()]
        expected = ones(3)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            before = pool.apply(names, (0,))
            answer = pool.apply_async(ones, (3,)).get(timeout=100)
            after = pool.apply(names, (0,))
        print((answer == expected).all(), "minicnn 1" in names(0), "minicnn 1" in before)
        print("minicnn 1" in after)
    """
    assert run(code) == ["True", "True", "False", "True"]


def test_a_fork_while_another_thread_computes_leaves_no_lock_held():
    code = """
        expected, stop = job(0), threading.Event()
        def compute():
            while not stop.is_set():
                model.predict(x)
        thread = threading.Thread(target=compute)
        thread.start()
        for _ in range(5):
            with multiprocessing.get_context("fork").Pool(1) as pool:
                print((pool.apply_async(job, (0,)).get(timeout=60) == expected).all())
        stop.set()
        thread.join()
    """
    assert run(code) == ["True"] * 5


POOLS = {
    "spawn": """
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            answers = pool.map_async(model.predict, [x, x[:7]]).get(timeout=200)
    """,
    "forkserver": """
        with multiprocessing.get_context("forkserver").Pool(2) as pool:
            answers = pool.map_async(model.predict, [x, x[:7]]).get(timeout=200)
    """,
    "joblib, loky": """
        import joblib
        calls = [joblib.delayed(model.predict)(part) for part in (x, x[:7])]
        answers = joblib.Parallel(2, backend="loky", timeout=200)(calls)
    """,
    "joblib, threading": """
        import joblib
        calls = [joblib.delayed(model.predict)(part) for part in (x, x[:7])]
        answers = joblib.Parallel(2, backend="threading", timeout=200)(calls)
    """,
}


@pytest.mark.parametrize("kind", POOLS)
def test_a_model_goes_into_a_pool(kind, tmp_path):
    """After it has predicted, so that it has machine code's addresses in it."""
    if "joblib" in kind:
        pytest.importorskip("joblib")
    script = tmp_path / "pool.py"
    body = textwrap.indent(
        "expected = model.predict(x)\n"
        + textwrap.dedent(POOLS[kind])
        + "print((answers[0] == expected).all(), (answers[1] == expected[:7]).all())\n",
        "    ",
    )
    script.write_text(textwrap.dedent(START) + '\nif __name__ == "__main__":\n' + body)
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.stdout.split() == ["True", "True"], result.stderr[-2000:]


def test_a_threaded_web_server_answers_as_one_thread_does():
    params = NETWORK.initialize(np.random.default_rng(0))
    model = Model(NETWORK, params, tuple("0123456789"), threads=2)
    expected = [model.logits(X[i : i + 1 + i % 7]).tobytes() for i in range(0, 200, 5)]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = model.logits(np.frombuffer(body, np.uint8).reshape(-1, 28, 28, 1)).tobytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()

    def ask(i):
        request = f"http://127.0.0.1:{server.server_port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, X[i : i + 1 + i % 7].tobytes(), timeout=60) as answer:
            return answer.read()

    try:
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(ask, list(range(0, 200, 5)) * 5))
    finally:
        server.shutdown()
        server.server_close()
    assert answers == expected * 5


def test_two_threads_use_a_rule_for_the_first_time(tmp_path, monkeypatch):
    code = """
        outcomes, gate = [], threading.Barrier(2)
        def work(kind):
            gate.wait()
            if kind == 0:
                outcomes.append(minicnn.Loss("mse", 3)(np.zeros((2, 3)), np.array([0, 1]))[0])
            else:
                one = np.zeros(4, np.float32)
                minicnn.Optimizer("adam", 4).update(one, np.ones(4, np.float32))
                outcomes.append(one[0])
        for kind in (0, 1):
            threads = [threading.Thread(target=work, args=(kind,)) for _ in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        print(len(outcomes), outcomes[0] == outcomes[1], outcomes[2] == outcomes[3])
    """
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert run(code) == ["4", "True", "True"]
