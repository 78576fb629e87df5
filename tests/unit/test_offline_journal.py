"""The journal against kills at any byte, full disks and second writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starr_engine.errors import CapacityError, ConfigError, StarrError
from starr_engine.offline.job import BatchJob, run_batch_job
from starr_engine.offline.journal import Journal, journal_path, settings_path
from starr_engine.offline.json_lines import json_line
from tests.helpers.fake_llm import FakeLLM

SETTINGS = {"seed": 0, "stop": []}
NUM_ROWS = 6


def finished_run(folder: Path) -> tuple[BatchJob, bytes]:
    source = folder / "in.jsonl"
    rows = [{"id": i, "prompt": f"caf\u00e9 {i}", "note": "\u20ac\n" * i} for i in range(NUM_ROWS)]
    rows[3]["prompt"] = ""  # one row with an error
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = BatchJob(input=source, output=folder / "out.jsonl", resume=True)
    run_batch_job(FakeLLM(), job)
    return job, job.output.read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return finished_run(tmp_path_factory.mktemp("whole"))[1]


def cut_and_resume(folder: Path, journal: bytes) -> tuple[int, bytes]:
    """A journal as a kill left it -> (rows resumed, the finished output)."""
    job, whole = finished_run(folder)
    interrupted_at = BatchJob(input=job.input, output=folder / "again.jsonl", resume=True)
    with Journal(interrupted_at.output, _settings_of(job)):
        pass
    journal_path(interrupted_at.output).write_bytes(journal)
    summary = run_batch_job(FakeLLM(), interrupted_at)
    assert interrupted_at.output.read_bytes() == whole
    assert not journal_path(interrupted_at.output).exists()
    assert not settings_path(interrupted_at.output).exists()
    return summary.num_resumed, whole


def _settings_of(job: BatchJob) -> dict:
    from starr_engine.offline.job import _settings
    from starr_engine.offline.reader import open_source

    return dict(_settings(FakeLLM().engine.config, job.params, open_source(job.input)))


@settings(deadline=None)  # disks are slow now and then
@given(st.data())
def test_a_journal_cut_at_any_byte_is_continued_to_the_same_output(
    expected: bytes, data: st.DataObject
):
    cut = data.draw(st.integers(0, len(expected)))
    with tempfile.TemporaryDirectory() as folder:
        resumed, _ = cut_and_resume(Path(folder), expected[:cut])
    assert resumed == expected[:cut].count(b"\n")


@settings(deadline=None)  # disks are slow now and then
@given(st.data())
def test_zeros_that_a_power_cut_leaves_are_cut_off(expected: bytes, data: st.DataObject):
    cut = data.draw(st.integers(0, len(expected)))
    tail = data.draw(st.sampled_from([b"\0" * 100, b"\0" * 10 + b"\n", b"\xff\n", b"[]\n"]))
    with tempfile.TemporaryDirectory() as folder:
        resumed, _ = cut_and_resume(Path(folder), expected[:cut] + tail)
    assert resumed == expected[:cut].count(b"\n")


def full_disk(monkeypatch: pytest.MonkeyPatch, *, room: int, number: int = errno.ENOSPC) -> None:
    """From now on the disk takes ``room`` more bytes; a write that does not fit is cut short."""
    real, left = os.write, [room]

    def write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(number, os.strerror(number))
        written = real(fd, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_how_many_rows_are_safe_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    job, whole = finished_run(tmp_path)
    job = BatchJob(input=job.input, output=tmp_path / "again.jsonl", resume=True)
    room = whole.index(b"\n") + 20  # the first row and a piece of the second
    with monkeypatch.context() as patch:
        full_disk(patch, room=room, number=number)
        with pytest.raises(CapacityError, match=r"no space left.*holds 1 complete rows.*--resume"):
            run_batch_job(FakeLLM(), job)
    assert journal_path(job.output).read_bytes() == whole[: whole.index(b"\n") + 1]
    assert not job.output.exists()
    assert run_batch_job(FakeLLM(), job).num_resumed == 1
    assert job.output.read_bytes() == whole


def test_a_limit_of_the_real_system_is_reported_the_same_way(tmp_path: Path):
    job, whole = finished_run(tmp_path)
    script = (
        "import resource, sys, pathlib\n"
        "from starr_engine.offline.job import BatchJob, run_batch_job\n"
        "from tests.helpers.fake_llm import FakeLLM\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) - 30}, {len(whole) - 30}))\n"
        f"run_batch_job(FakeLLM(), BatchJob(input=pathlib.Path({str(job.input)!r}),\n"
        f"    output=pathlib.Path({str(tmp_path / 'again.jsonl')!r})))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert f"holds {NUM_ROWS - 1} complete rows" in done.stderr
    assert not (tmp_path / "again.jsonl").exists()
    again = BatchJob(input=job.input, output=tmp_path / "again.jsonl", resume=True)
    assert run_batch_job(FakeLLM(), again).num_resumed == NUM_ROWS - 1
    assert again.output.read_bytes() == whole


def test_a_disk_that_fills_while_converting_leaves_the_journal_and_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from starr_engine.offline import job as module

    job, _ = finished_run(tmp_path)
    job = BatchJob(input=job.input, output=tmp_path / "out.parquet", resume=True)

    def fail_half_way(path: Path, *_: object) -> None:
        path.write_bytes(b"PAR1 half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_parquet", fail_half_way)
        with pytest.raises(CapacityError, match=f"holds {NUM_ROWS} complete rows"):
            run_batch_job(FakeLLM(), job)
    left = {path.name for path in tmp_path.iterdir()} - {"in.jsonl", "out.jsonl"}
    assert left == {"out.parquet.partial", "out.parquet.settings.partial"}
    summary = run_batch_job(FakeLLM(), job)
    assert summary.num_resumed == NUM_ROWS
    assert not journal_path(job.output).exists()


def test_a_second_writer_is_refused_while_the_first_is_at_work(tmp_path: Path):
    output = tmp_path / "out.jsonl"
    with Journal(output, SETTINGS) as journal:
        journal.append(json_line({"x": 1}))
        with pytest.raises(ConfigError, match="another process is writing"):
            Journal(output, SETTINGS, resume=True)
        with pytest.raises(ConfigError, match="another process is writing"):
            Journal(output, SETTINGS, overwrite=True)
        journal.append(json_line({"x": 2}))
    assert journal_path(output).read_bytes() == b'{"x": 1}\n{"x": 2}\n'


def test_a_writer_that_opened_just_before_the_first_one_published_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "out.jsonl"
    first = Journal(output, SETTINGS)
    first.append(json_line({"x": 1}))
    real = os.open

    def open_then_publish(path: str, *args: int) -> int:
        descriptor = real(path, *args)
        monkeypatch.setattr(os, "open", real)
        first.publish()
        first.__exit__()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_publish)
    with pytest.raises(ConfigError, match="another process"):
        Journal(output, SETTINGS, overwrite=True)
    assert output.read_bytes() == b'{"x": 1}\n'


def test_a_journal_without_rows_is_no_obstacle(tmp_path: Path):
    output = tmp_path / "out.jsonl"
    with Journal(output, SETTINGS):
        pass
    with Journal(output, {"seed": 1}) as journal:
        assert journal.num_rows == 0


def test_a_folder_that_cannot_be_written_is_an_error_with_the_reason(tmp_path: Path):
    with pytest.raises(StarrError, match=r"cannot write .*No such file"):
        Journal(tmp_path / "missing" / "out.jsonl", SETTINGS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=())), json_values))
def test_any_json_object_is_one_line_and_comes_back(columns: dict):
    line = json_line(columns)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == columns
