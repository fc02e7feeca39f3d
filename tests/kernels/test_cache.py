"""A compiled library is opened only from where nobody else can put one, and only whole."""

import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from flowrl.kernels import cache, library

NAME = "kernels-0123.so"
needs_compiler = pytest.mark.skipif(library.load(torch.float32) is None, reason="no C compiler: install gcc")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which root alone can")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A cache of its own; the temporary directory is another one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home" / "flowrl"


@pytest.fixture
def compiled(tmp_path):
    """What a compiler wrote."""
    path = tmp_path / NAME
    path.write_bytes(b"code")
    return path


def test_what_is_kept_is_found_by_its_owner_alone(home, compiled):
    assert cache.find(NAME) is None
    cache.keep(compiled)
    assert cache.find(NAME) == home / NAME
    assert (home / NAME).read_bytes() == b"code"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.iterdir()} == {0o600}


@pytest.mark.parametrize("harm", ["truncated", "other bytes", "no checksum", "broken checksum", "empty"])
def test_what_is_not_whole_is_not_opened_and_is_replaced(harm, home, compiled):
    cache.keep(compiled)
    checksum = (home / NAME).with_suffix(".sha256")
    if harm == "no checksum":
        checksum.unlink()
    elif harm == "broken checksum":
        checksum.write_bytes(b"\xff\xfe")
    else:
        (home / NAME).write_bytes({"truncated": b"co", "other bytes": b"evil", "empty": b""}[harm])
    assert cache.find(NAME) is None
    cache.keep(compiled)
    assert cache.find(NAME).read_bytes() == b"code"


def everybody_may_write_to(path):
    path.chmod(path.stat().st_mode | stat.S_IWOTH)


def a_link_leads_to(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


UNSAFE = {
    "library": lambda home: everybody_may_write_to(home / NAME),
    "checksum": lambda home: everybody_may_write_to((home / NAME).with_suffix(".sha256")),
    "directory": everybody_may_write_to,
    "directory above": lambda home: everybody_may_write_to(home.parent),
    "linked library": lambda home: a_link_leads_to(home / NAME),
    "linked directory": a_link_leads_to,
}


@pytest.mark.parametrize("place", UNSAFE)
def test_what_somebody_else_could_have_put_there_is_not_opened(place, home, compiled):
    cache.keep(compiled)
    UNSAFE[place](home)
    assert cache.find(NAME) is None


@only_root
@pytest.mark.parametrize("place", ["library", "directory", "directory above"])
def test_what_belongs_to_somebody_else_is_not_opened(place, home, compiled):
    cache.keep(compiled)
    os.chown({"library": home / NAME, "directory": home, "directory above": home.parent}[place], 12345, 12345)
    assert cache.find(NAME) is None


def test_a_sticky_directory_above_is_safe(home, compiled):
    """As /tmp is: everybody may write there, and only the owner of a file may replace it."""
    cache.keep(compiled)
    home.parent.chmod(0o1777)
    assert cache.find(NAME) == home / NAME


def test_a_directory_that_the_group_could_write_to_is_closed(home, compiled):
    home.mkdir(parents=True)
    home.chmod(0o775)
    cache.keep(compiled)
    assert cache.find(NAME) == home / NAME


@only_root
def test_a_directory_that_was_planted_among_temporary_files_is_left_alone(home, compiled, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    planted = Path(tempfile.gettempdir()) / f"flowrl-{os.geteuid()}"
    planted.mkdir(mode=0o777)
    os.chown(planted, 12345, 12345)
    assert cache.keep(compiled) is None
    assert list(planted.iterdir()) == []


def full(monkeypatch, directory):
    """No room in a directory."""
    write = cache._write

    def refuse(path, content):
        if directory in path.parents:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(cache, "_write", refuse)


@pytest.mark.parametrize("trouble", ["no home", "full", "a file in the way"])
def test_without_a_usable_home_a_directory_among_temporary_files_serves_every_process(
    trouble, home, compiled, monkeypatch
):
    if trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    elif trouble == "full":
        full(monkeypatch, home)
    else:
        home.parent.write_text("not a directory")
    cache.keep(compiled)
    temporary = Path(tempfile.gettempdir())
    assert cache.find(NAME) == temporary / f"flowrl-{os.geteuid()}" / NAME
    assert len(list(temporary.iterdir())) == 1


def test_a_full_disk_leaves_nothing_half_written(home, compiled, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    cache.keep(compiled)
    assert cache.find(NAME) is None
    assert list(home.iterdir()) == []


# With real libraries, not optimised, which would take seconds


@pytest.fixture
def quick_compiler(home, monkeypatch):
    monkeypatch.setattr(library, "FLAGS", ("-O0", "-shared", "-fPIC"))
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@needs_compiler
def test_a_library_is_compiled_once_and_a_damaged_one_again(home, quick_compiler, monkeypatch):
    compiled = []
    compile_ = library._compile
    monkeypatch.setattr(library, "_compile", lambda *arguments: (compiled.append(1), compile_(*arguments)))

    def times_compiled():
        library.load.cache_clear()  # as in a new process
        assert library.load(torch.float32) is not None
        return len(compiled)

    assert [times_compiled(), times_compiled()] == [1, 1]
    (kept,) = home.glob("*.so")
    # A truncated library would end the process by a bus error as soon as it is opened; and this one is open here.
    truncated = kept.read_bytes()[:1000]
    kept.unlink()
    kept.write_bytes(truncated)
    assert [times_compiled(), times_compiled()] == [2, 2]
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


@needs_compiler
def test_without_any_place_to_keep_it_every_process_compiles_and_leaves_nothing(home, quick_compiler, monkeypatch):
    monkeypatch.setattr(cache, "_is_private", lambda _: False)
    assert library.load(torch.float32) is not None
    assert list(home.iterdir()) == []
    assert [path.name for path in Path(tempfile.gettempdir()).iterdir()] == [f"flowrl-{os.geteuid()}"]


@needs_compiler
@pytest.mark.parametrize("place", ["home", "tmp"])
def test_a_place_from_which_nothing_may_be_run_is_not_the_only_one(place, home, quick_compiler, monkeypatch, tmp_path):
    """A file system may be mounted so, /tmp among them."""
    open_ = library._open

    def refuse(path):
        if tmp_path / place in path.parents:
            raise OSError("failed to map segment from shared object")
        return open_(path)

    monkeypatch.setattr(library, "_open", refuse)
    for _ in range(2):
        assert library.load(torch.float32) is not None
        library.load.cache_clear()


def test_a_linked_directory_keeps_its_mode(home, compiled, tmp_path):
    (tmp_path / "shared").mkdir(mode=0o775)
    (tmp_path / "shared").chmod(0o775)
    home.parent.mkdir()
    home.symlink_to(tmp_path / "shared")
    cache.keep(compiled)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o775
    assert list((tmp_path / "shared").iterdir()) == []


needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")


@needs_compiler
@needs_fork
def test_two_processes_at_once_both_get_it(home, quick_compiler):
    start = multiprocessing.get_context("fork").Barrier(2)

    def load():
        start.wait(60)
        assert library.load(torch.float32) is not None

    processes = [multiprocessing.get_context("fork").Process(target=load) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.suffix for path in home.iterdir()) == [".sha256", ".so"]


FORK = """
import multiprocessing, torch
torch.set_num_threads(2)
from flowrl.algorithms import SAC

def train():
    model = SAC("FlowPolicy", "Pendulum-v1", learning_starts=5, device="cpu")
    model.learn(10)

train()
child = multiprocessing.get_context("fork").Process(target=train)
child.start()
child.join(60)
assert child.exitcode == 0, child.exitcode
"""


@needs_fork
def test_training_goes_on_in_a_forked_child():
    """OpenMP's threads do not survive a fork: with two of them the child would wait for ever."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=100, env=environment)
