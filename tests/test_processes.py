"""Processes that lack something: the main thread, a framework that works, cores, a home, a reader. Each is one line."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import faiss
import jax
import numpy as np
import pytest
import torch

import ivfast_jax
import run_dcnet
from ivfast.front.command_line import main as front
from ivfast.network import usable
from ivfast.runtime import entry, own_process, quota
from ivfast.runtime.errors import RunError, StopRequestedError, UserError, no_memory
from ivfast.runtime.files import temporary_folder, user_path
from ivfast.runtime.packages import told
from ivfast.runtime.progress import Progress, _Terminal
from ivfast.runtime.signals import STOPPING, UNHEARD, handled, waiting
from ivfast.start import descent
from tests.runs import flags, make_data

ROOT = Path(__file__).resolve().parent.parent
BROKEN = {
    "jax": (
        "RuntimeError",
        "This version of jaxlib was built using AVX instructions, which your CPU does not support.",
    ),
    "torch": ("OSError", "libtorch_cpu.so: cannot open shared object file: No such file or directory"),
    "optax": ("AttributeError", "_ARRAY_API not found"),
    "faiss": ("ImportError", "numpy.core.multiarray failed to import"),
    "rich": ("ImportError", "cannot import name 'console'"),
    "matplotlib": ("AttributeError", "_ARRAY_API not found"),
    "pynndescent": ("ImportError", "Numba needs NumPy 2.0 or less. Got NumPy 2.4."),
    "pyarrow": ("ImportError", "numpy.core.umath failed to import"),
    "h5py": ("ValueError", "numpy.dtype size changed, may indicate binary incompatibility"),
    "lance": ("OSError", "liblance.so: cannot open shared object file"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), n_identities=60, n_query=40)


@pytest.fixture
def breaks(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment of a process in which importing these packages raises."""

    def make(*packages: str) -> dict[str, str]:
        for package in packages:
            kind, said = BROKEN[package]
            folder = tmp_path / "broken" / package
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text(f"raise {kind}({said!r})\n")
        return os.environ | {"PYTHONPATH": str(tmp_path / "broken"), "OMP_NUM_THREADS": "1"}

    return make


def python(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=120)


def line_for(package: str) -> str:
    return (
        f"{package} is installed, but cannot be imported ({': '.join(BROKEN[package])}); install it anew: pip install "
    )


def test_a_command_runs_in_a_thread_and_leaves_signals_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    before, codes = [signal.getsignal(number) for number in STOPPING], []
    thread = threading.Thread(
        target=lambda: codes.append(front(["convert", str(tmp_path / "x.npy"), str(tmp_path / "x.fvecs")]))
    )
    thread.start()
    thread.join()
    assert codes == [0]
    assert (tmp_path / "x.fvecs").is_file()
    said = capsys.readouterr().err
    assert said.count(UNHEARD) == 1
    assert "Traceback" not in said
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_blocks_of_another_thread_do_not_make_a_signal_wait() -> None:
    entered, leave, heard = threading.Event(), threading.Event(), []

    def other() -> None:
        with handled() as here, waiting():
            heard.append(here)
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with handled() as here:
        thread.start()
        assert entered.wait(10)
        with pytest.raises(StopRequestedError):
            signal.raise_signal(signal.SIGUSR1)
        leave.set()
        thread.join()
    assert (here, heard) == (True, [False])


def test_a_handler_that_python_cannot_put_back_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    of_c = signal.SIGUSR1
    known = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == of_c else known(number))
    before = known(of_c)
    with handled():
        assert known(of_c) is before
        assert known(signal.SIGTERM) is not signal.SIG_DFL


@pytest.mark.parametrize(("package", "backend"), [("jax", "jax"), ("optax", "jax"), ("torch", "torch")])
def test_a_chosen_backend_that_is_broken_ends_in_one_line(
    package: str, backend: str, breaks: Callable[..., dict[str, str]], data: Path, tmp_path: Path
) -> None:
    done = python("run_dcnet.py", *flags(data, tmp_path / "out", "--backend", backend), env=breaks(package))
    other = {"jax": "torch", "torch": "jax"}[backend]
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: --backend {backend}: {line_for(package)}")
    assert done.stderr.endswith(f", or choose --backend {other}, which is installed\n")
    assert "Traceback" not in done.stderr


def test_where_no_backend_was_chosen_the_other_is_taken_with_a_note(
    breaks: Callable[..., dict[str, str]], data: Path, tmp_path: Path
) -> None:
    env, argv = breaks("jax"), flags(data, tmp_path / "out", "--data_name", "nowhere")
    done = python("run_dcnet.py", *argv, env=env)
    assert done.stderr.splitlines()[-1].startswith("error: base, query, gt: ")  # what comes after the backend
    reason = line_for("jax").split("; ")[0]
    assert f"warning: {reason}; --backend torch is used" in done.stderr.splitlines()
    code = "from ivfast.network.usable import some_backend; print(some_backend())"
    done = python("-c", code, env=env)
    assert done.stdout == "torch\n"
    assert f"RuntimeWarning: {reason}; backend torch is used" in done.stderr


def test_where_both_are_broken_the_default_is_named(breaks: Callable[..., dict[str, str]]) -> None:
    code = "from ivfast.network.usable import usable_backend; usable_backend('jax')"
    done = python("-c", code, env=breaks("jax", "torch"))
    assert line_for("jax") in done.stderr.splitlines()[-1]
    assert "torch" not in done.stderr.splitlines()[-1]


def test_a_backend_that_works_is_kept_and_one_that_lacks_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable.usable_backend("jax") == ("jax", "")
    assert usable.usable_backend("torch") == ("torch", "")
    monkeypatch.setitem(sys.modules, "optax", None)
    assert usable.usable_backend("jax") == ("jax", "")


@pytest.mark.parametrize("package", ["faiss", "rich"])
@pytest.mark.parametrize("command", [["run_dcnet.py", "--help"], ["-m", "ivfast", "--help"]])
def test_what_every_run_needs_is_named_where_it_is_broken(
    package: str, command: list[str], breaks: Callable[..., dict[str, str]]
) -> None:
    done = python(*command, env=breaks(package))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line_for(package)}")
    assert done.stderr.count("\n") == 1


def test_a_mistake_of_our_own_is_no_broken_package() -> None:
    for mistake in (ImportError("no such name", name="ivfast.runtime"), ImportError("no name"), ValueError("ours")):
        with pytest.raises(type(mistake)):
            told(mistake)
    assert told(ModuleNotFoundError("none", name="faiss")) == "faiss is not installed: pip install faiss-cpu"
    assert told(ModuleNotFoundError("none", name="faiss.swig")) == (
        "faiss is installed, but cannot be imported (ModuleNotFoundError: none); install it anew: "
        "pip install --force-reinstall faiss-cpu"
    )
    for wish in (KeyboardInterrupt(), StopRequestedError(15), SystemExit(3), AttributeError("x", obj=entry)):
        with pytest.raises(type(wish)):
            told(wish)


@pytest.mark.parametrize(
    ("package", "content", "why"),
    [
        ("faiss", b"def broken(:\n", "SyntaxError: "),
        ("rich", b"import os\0\n", "SyntaxError: "),
        ("faiss", b"", "AttributeError: module 'faiss' has no attribute "),
        ("faiss", b"raise SystemExit(1)", "SystemExit: 1"),
        ("numpy", b"import ctypes; ctypes.CDLL('libnone.so')", "OSError: libnone.so"),
        ("rich", b"class PanicException(BaseException): pass\nraise PanicException('rust')", "PanicException: rust"),
        ("rich", b"import rich.gone", "ModuleNotFoundError: No module named 'rich.gone'"),
    ],
)
def test_a_package_is_named_however_it_is_broken(package: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_bytes(content)
    done = python("run_dcnet.py", "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.stderr.startswith(f"error: {package} is installed, but cannot be imported ({why}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_what_fails_inside_a_package_that_is_loaded_is_named_after_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "built_for_another.py").write_text("import numpy; numpy.stack([])")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="at least one array") as problem:
        importlib.import_module("built_for_another")
    assert told(problem.value).startswith("built_for_another is installed, but cannot be imported (ValueError: ")


@pytest.mark.parametrize(("package", "file"), [("h5py", "x.h5"), ("pyarrow", "x.parquet"), ("lance", "x.lance")])
def test_an_optional_package_that_is_broken_is_named(
    package: str, file: str, breaks: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / file).mkdir() if package == "lance" else (tmp_path / file).write_bytes(b"\x01")
    done = python("-m", "ivfast", "convert", str(tmp_path / file), str(tmp_path / "y.npy"), env=breaks(package))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: source: {tmp_path / file} can't be read: {line_for(package)}")
    assert done.stderr.count("\n") == 1


def test_broken_matplotlib_and_pynndescent_are_named(breaks: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    env = breaks("matplotlib", "pynndescent")
    done = python("-m", "ivfast", "report", str(tmp_path), env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: report: {line_for('matplotlib')}")
    code = (
        "import numpy as np; from pathlib import Path; from ivfast.data.vectors import Vectors; "
        "from ivfast.start.descent import check_descent; check_descent(Vectors('base', Path('b'), np.zeros((5, 2))))"
    )
    assert line_for("pynndescent") in python("-c", code, env=env).stderr.splitlines()[-1]


def test_a_command_of_its_own_looks_for_no_gpu_and_takes_memory_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setitem(sys.modules, "jax", sys)
    own_process.prepare_jax(-1)
    assert environment == {}  # JAX is loaded here: it is its host's
    monkeypatch.setattr(sys, "modules", {})
    own_process.prepare_jax(-1)
    assert environment == {"JAX_PLATFORMS": "cpu"}
    environment.clear()
    own_process.prepare_jax(0)
    assert environment == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    for name in own_process.MEMORY:
        environment.clear()
        environment.update({name: "mine", "JAX_PLATFORMS": "cuda"})
        own_process.prepare_jax(0)
        own_process.prepare_jax(-1)
        assert environment == {name: "mine", "JAX_PLATFORMS": "cuda"}


def test_the_platform_is_set_before_jax_is_loaded(data: Path, tmp_path: Path) -> None:
    """By the command, and not by a host that calls it with words of its own."""
    code = (
        "import sys, os, run_dcnet; words = sys.argv[1:]; code = run_dcnet.main({}); import jax; "
        "print(code, jax.config.jax_platforms, os.environ.get('XLA_PYTHON_CLIENT_PREALLOCATE'))"
    )
    argv = flags(data, tmp_path / "out", "--data_name", "nowhere")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_PLATFORMS", "XLA_"))}
    assert python("-c", code.format("None"), *argv, env=env).stdout == "2 cpu None\n"
    assert python("-c", code.format("words"), *argv, env=env).stdout == "2 None None\n"


def test_jax_without_a_cpu_is_told() -> None:
    code = "import ivfast_jax; ivfast_jax.find_device(-1)"
    done = python("-c", code, env=os.environ | {"JAX_PLATFORMS": "nothing"})
    assert "UserError: --gpu -1: JAX starts no CPU (" in done.stderr.splitlines()[-1]


def test_platforms_of_jax_that_are_not_here_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_devices(_platform: str) -> None:
        raise AssertionError  # what jaxlib does with JAX_PLATFORMS=cuda where there is no GPU

    monkeypatch.setattr(jax, "devices", no_devices)
    with pytest.raises(UserError, match=r"JAX starts no CPU .* unset JAX_PLATFORMS"):
        ivfast_jax.find_device(-1)
    with pytest.raises(UserError, match="JAX sees no GPUs"):
        ivfast_jax.find_device(0)


OUT_OF_MEMORY: dict[str, tuple[BaseException, str]] = {
    "NumPy": (MemoryError("Unable to allocate 32.7 TiB"), "Unable to allocate 32.7 TiB"),
    "nothing said": (MemoryError(), ""),
    "JAX": (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\n" + "Buffer\n" * 1000),
        "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes. " + ("Buffer " * 1000)[:145] + "..",
    ),
    "torch on a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), "CUDA out of memory. Tried to"),
}


def test_what_frameworks_say_of_memory_is_known() -> None:
    """As they raise it here: torch has no type of its own for it on the CPU, and JAX one for all errors."""
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as of_jax:
        jax.numpy.zeros(1 << 46, dtype="int8", device=jax.devices("cpu")[0]).block_until_ready()
    for raised in (of_torch, of_jax):
        said = no_memory(raised.value)
        assert said is not None
        assert said.startswith("not enough memory: ")
        assert len(said) < 500
    for other in (RuntimeError("an allocation of classes"), ValueError("out of memory"), RuntimeError()):
        assert no_memory(other) is None


def test_no_other_error_of_a_framework_is_taken_for_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ivfast.commands._train", Mock(side_effect=RuntimeError("INTERNAL: a bug")))
    with pytest.raises(RuntimeError, match="INTERNAL: a bug"):
        run_dcnet.main(flags(data, tmp_path / "out"))


@pytest.mark.parametrize("case", OUT_OF_MEMORY)
@pytest.mark.parametrize("command", ["run_dcnet", "ivfast"])
def test_memory_that_is_up_ends_in_one_line(
    command: str, case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    problem, told = OUT_OF_MEMORY[case]
    no_room = Mock(side_effect=problem)
    monkeypatch.setattr("ivfast.commands._train", no_room)
    monkeypatch.setattr("ivfast.front.actions.convert_file", no_room)
    run, words = {
        "run_dcnet": (run_dcnet.main, flags(data, tmp_path / "out")),
        "ivfast": (front, ["convert", "x.npy", "y.npy"]),
    }[command]
    assert run(words) == 1
    last = " ".join(capsys.readouterr().err.split("error: ")[-1].split())
    assert last.startswith(
        f"not enough memory{': ' * bool(told)}{told}; use a smaller --batch_size, --valid_batch_size"
    )
    if command == "run_dcnet":
        assert "not enough memory" in (tmp_path / "out" / "train.log").read_text()


def groups(root: Path, lines: str, files: dict[str, str]) -> Path:
    """A root with /proc/self/cgroup and files of /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


QUOTAS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "version 2": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, none": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "version 2, of a group above": (
        "0::/kubepods/pod1/c1\n",
        {
            "kubepods/pod1/c1/cpu.max": "max 100000",
            "kubepods/pod1/cpu.max": "200000 100000",
            "kubepods/cpu.max": "max 1",
        },
        2,
    ),
    "version 2, in a container": ("0::/../../x\n", {"cpu.max": "50000 100000"}, 0.5),
    "version 1": (
        "11:cpu,cpuacct:/\n4:memory:/\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1, by its short name": (
        "3:cpu:/docker/abc\n",
        {"cpu/docker/abc/cpu.cfs_quota_us": "250000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "version 1, none": (
        "3:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "both": (
        "0::/a\n3:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000", "a/cpu.max": "max 100000"},
        3,
    ),
    "cpuset alone": ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, None),
    "nonsense": ("0::/\nwhat\n", {"cpu.max": "a b c"}, None),
    "nothing": ("", {}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_is_read_from_either_version_of_cgroups(case: str, tmp_path: Path) -> None:
    lines, files, expected = QUOTAS[case]
    assert quota.cpu_quota(groups(tmp_path, lines, files)) == expected


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota.cpu_quota(tmp_path) is None
    assert quota.granted(tmp_path) == quota.cores()


@pytest.fixture
def of_1_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A quota of one and a half on a machine of 64 cores."""
    monkeypatch.setattr(quota, "cores", lambda: 64)
    for name in quota.NAMES:
        monkeypatch.delenv(name, raising=False)
    return groups(tmp_path, *QUOTAS["version 2"][:2])


def test_threads_keep_within_a_quota_and_are_put_back(of_1_5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    try:
        faiss.omp_set_num_threads(5)
        torch.set_num_threads(6)
        assert (
            "warning: threads: 5 of FAISS, 6 of torch; 64 cores may be used, of which a quota"
            in quota.about_threads(of_1_5)
        )
        assert "set OMP_NUM_THREADS=2 and NPROC=2" in quota.about_threads(of_1_5)
        with quota.within_quota(of_1_5):
            assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == (2, 2)
            assert quota.about_threads(of_1_5).startswith("threads: 2 of FAISS, 2 of torch; 64 cores")
        assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == (5, 6)
        monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's own word
        with quota.within_quota(of_1_5):
            assert faiss.omp_get_max_threads() == 5
    finally:
        faiss.omp_set_num_threads(before[0])
        torch.set_num_threads(before[1])


def test_libraries_are_told_before_they_count_cores(of_1_5: Path, tmp_path: Path) -> None:
    quota.name_threads(of_1_5)
    assert [os.environ.pop(name) for name in quota.NAMES] == ["2"] * 4
    os.environ["OPENBLAS_NUM_THREADS"] = "3"
    quota.name_threads(of_1_5)
    assert [os.environ.pop(name) for name in quota.NAMES] == ["2", "3", "2", "2"]
    os.environ["OMP_NUM_THREADS"] = "64"
    quota.name_threads(of_1_5)
    assert [os.environ.get(name) for name in quota.NAMES] == ["64", None, None, None]
    del os.environ["OMP_NUM_THREADS"]
    quota.name_threads(tmp_path / "without")
    assert not set(quota.NAMES) & set(os.environ)


def test_a_command_tells_threads_before_numpy_is_loaded() -> None:
    code = (
        "import sys; from ivfast.runtime import entry; "
        "entry.name_threads = lambda: print(bool({'numpy', 'faiss', 'jax', 'torch'} & set(sys.modules))); "
        "sys.argv = ['x', '--version']; entry.run('ivfast.commands', None)"
    )
    assert python("-c", code).stdout.startswith("False\nivfast ")


def test_a_user_without_a_name_or_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_path("/x/y") == Path("/x/y")
    with pytest.raises(UserError, match=r"^~/x: there is no such home folder"):
        user_path("~/x")


def test_no_temporary_folder_is_told_and_tmpdir_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def none() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "_sanitize_params", lambda *_: none())
    with (
        pytest.raises(RunError, match=r"^no temporary folder can be made \(No usable .*\); set TMPDIR"),
        temporary_folder(),
    ):
        pass


def test_numba_keeps_what_it_compiled_where_something_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert descent._numba_cache(tmp_path) == {}
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert descent._numba_cache(tmp_path) == {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/mine")
    assert descent._numba_cache(tmp_path) == {}


def test_a_reader_that_is_gone_ends_no_run(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as file:
        os.close(read)
        progress = Progress(tmp_path, _Terminal(file=file))
        progress.note("one")
        progress.note("two")
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


class FullDisk(io.StringIO):
    """A file that takes no byte more."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_terminal_that_takes_nothing_more_ends_no_run(tmp_path: Path) -> None:
    progress = Progress(tmp_path, _Terminal(file=FullDisk()))
    progress.note("one")
    progress.note("two")
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["one", "two"]


def test_help_into_a_pipe_that_is_closed_says_nothing_more() -> None:
    command = f"{sys.executable} run_dcnet.py --help | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S602
    assert done.stderr == ""


def test_files_do_not_get_the_numbers_of_closed_ones(tmp_path: Path) -> None:
    code = (
        "import os; from ivfast.runtime import entry; entry._open_standard_files(); "
        f"open({str(tmp_path / 'said')!r}, 'w').write(str(os.open(os.devnull, os.O_RDONLY) > 2))"
    )
    command = f"{sys.executable} -c {code!r} 0<&- 1>&- 2>&-".replace(repr(code), '"$CODE"')
    subprocess.run(command, shell=True, cwd=ROOT, check=True, env=os.environ | {"CODE": code})  # noqa: S602
    assert (tmp_path / "said").read_text() == "True"


def test_entry_gives_the_code_of_the_command() -> None:
    assert entry.run("ivfast.front.command_line", ["convert", "/nowhere.npy", "/nowhere.fvecs"]) == 2


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict"])
def test_messages_pass_through_a_terminal_without_unicode(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "Vektoren \N{GREEK SMALL LETTER ALPHA}.npy"
    done = python("-m", "ivfast", "convert", str(path), "y.npy", env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 2
    assert "is missing" in done.stderr
    assert "Traceback" not in done.stderr
