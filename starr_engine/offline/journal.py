"""The journal: every finished row, in order, safe against a kill at any moment.

```
<output>.partial            one JSON line per finished row, in input order; only ever appended to
<output>.settings.partial   what the rows were made with, written before the first of them
```

The output appears under its own name in one step, when the last row is there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from starr_engine.errors import CapacityError, ConfigError, StarrError
from starr_engine.offline.json_lines import parse_line

SYNC_INTERVAL_S: Final = 5.0
"""At most this much work is lost when the machine, not just the process, goes down."""

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Settings = Mapping[str, object]


class Journal:
    """The rows of one output that are finished so far; locked against a second writer.

    Use as a context manager. The rows are on their way to the disk when :meth:`append` returns,
    so that killing the process loses none.

    Args:
        output: The file that is being made.
        settings: What the rows depend on; JSON values.
        resume: Continue an existing journal.
        overwrite: Drop an existing journal, if ``resume`` is not set.
        on_row: Called with every row that is there already.

    Raises:
        ConfigError: If there is a journal and it may not be continued: neither flag is set, the
            settings differ, or another process is writing to it.
        CapacityError: If there is no space.
    """

    def __init__(
        self,
        output: Path,
        settings: Settings,
        *,
        resume: bool = False,
        overwrite: bool = False,
        on_row: Callable[[dict[str, object]], None] | None = None,
    ) -> None:
        self.output = output
        self.path = journal_path(output)
        self.num_rows = 0
        self._on_row = on_row
        if _has_rows(self.path) and not (resume or overwrite):
            raise ConfigError(_journal_in_the_way(self.path))
        # Through JSON and back, so that settings read from the file compare equal.
        self.settings: Settings = json.loads(json.dumps(settings))
        with self._disk_errors():
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            with self._disk_errors():
                self._start(self.settings, resume=resume)
        except BaseException:
            os.close(self._fd)
            raise
        self._synced_at = time.monotonic()

    def _lock(self) -> None:
        problem = f"another process is writing {self.output}; wait for it or choose another output"
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(problem) from error
        # The other process may have published between our open and our lock: then this file is
        # its finished output and must not be touched.
        if not self.path.exists() or not os.path.samestat(os.fstat(self._fd), self.path.stat()):
            raise ConfigError(problem)

    def _start(self, settings: Settings, *, resume: bool) -> None:
        header = settings_path(self.output)
        if resume and os.fstat(self._fd).st_size:
            _check_same(header, settings)
            self._recover()
            return
        os.ftruncate(self._fd, 0)
        temporary = header.with_name(header.name + ".new")
        with temporary.open("w") as file:
            json.dump(settings, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, header)
        _sync_folder(header.parent)

    def _recover(self) -> None:
        """Count the rows and cut off what follows the last complete one."""
        end = 0
        for line in self.lines():
            row = parse_line(line)
            if row is None:
                break
            end += len(line)
            self.num_rows += 1
            if self._on_row:
                self._on_row(row)
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)

    def append(self, line: bytes) -> None:
        """Add one row.

        Args:
            line: Its JSON object, UTF-8, ended by the line's only newline.

        Raises:
            CapacityError: If the disk is full; says how many rows the journal holds.
        """
        with self._disk_errors():
            start = os.lseek(self._fd, 0, os.SEEK_CUR)
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:
                os.ftruncate(self._fd, start)  # shrinking works on a full disk
                os.lseek(self._fd, start, os.SEEK_SET)
                raise
            self.num_rows += 1
            if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
                self.sync()

    def sync(self) -> None:
        """Wait until the rows are on the disk.

        Raises:
            CapacityError: If the disk is full.
        """
        with self._disk_errors():
            os.fsync(self._fd)
        self._synced_at = time.monotonic()

    def rows(self) -> Iterator[dict[str, object]]:
        """All rows, from the first."""
        for line in self.lines():
            row = parse_line(line)
            assert row is not None, f"{self.path} holds a line that was not written by append()"
            yield row

    def lines(self) -> Iterator[bytes]:
        """All rows as they were given to :meth:`append`."""
        with self.path.open("rb") as file:
            yield from file

    def publish(self, convert: Callable[[Path], None] | None = None) -> None:
        """Give the output its name and remove the journal.

        Args:
            convert: Writes the output, in another format, to the path it is given, as a file or a
                folder of files; by default the journal itself becomes the output.

        Raises:
            CapacityError: If the disk is full; the journal stays.
        """
        self.sync()
        if convert is None:
            with self._disk_errors():
                _replace(self.path, self.output)
        else:
            temporary = self.output.with_name(self.output.name + ".converting.partial")
            with self._disk_errors():
                try:
                    _remove(temporary)  # of a run that was killed here
                    convert(temporary)
                    _sync_all(temporary)
                    _replace(temporary, self.output)
                finally:
                    _remove(temporary)
            self.path.unlink()
        settings_path(self.output).unlink(missing_ok=True)
        _sync_folder(self.output.parent)

    def _disk_errors(self) -> _DiskErrors:
        return _DiskErrors(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)


class _DiskErrors:
    """Turns the system's errors into ones that say what is safe and how to go on."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError):
            return
        journal = self._journal
        if error.errno in _NO_SPACE:
            raise CapacityError(
                f"no space left to write {journal.output} ({error.strerror}); the journal "
                f"{journal.path} holds {journal.num_rows} complete rows: free some space and run "
                f"the same command with --resume"
            ) from error
        raise StarrError(
            f"cannot write {journal.output}: {error}; the journal {journal.path} holds "
            f"{journal.num_rows} complete rows"
        ) from error


def journal_path(output: Path) -> Path:
    """Where the finished rows of ``output`` are until it is complete."""
    return output.with_name(output.name + ".partial")


def settings_path(output: Path) -> Path:
    """Where the settings of an unfinished ``output`` are."""
    return output.with_name(output.name + ".settings.partial")


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Check early, before a model is loaded, that ``output`` may be written.

    Raises:
        ConfigError: If its folder is missing, it exists and ``overwrite`` is not set, or a journal
            exists and neither flag is set.
    """
    if not output.parent.is_dir():
        raise ConfigError(f"the folder of the output does not exist: {output.parent}; create it")
    if output.exists() and not overwrite:
        raise ConfigError(
            f"the output {output} exists already; choose another name or pass --overwrite"
        )
    if _has_rows(journal_path(output)) and not (resume or overwrite):
        raise ConfigError(_journal_in_the_way(journal_path(output)))


def _check_same(header: Path, settings: Settings) -> None:
    try:
        before = json.loads(header.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot resume: {header} does not say what the rows of the journal were made with "
            f"({error}); start anew with --overwrite"
        ) from error
    changed = [
        f"{name} was {json.dumps(before.get(name))} and is now {json.dumps(settings.get(name))}"
        for name in dict.fromkeys((*before, *settings))
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise ConfigError(
            f"cannot resume with other settings: {'; '.join(changed)}. Use the settings of the "
            f"first run, or start anew with --overwrite"
        )


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _journal_in_the_way(path: Path) -> str:
    return (
        f"{path} holds the rows of an unfinished run; pass --resume to continue it or "
        f"--overwrite to start anew"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(path: Path) -> None:
    """Wait until a file, or a folder and the files in it, are on the disk."""
    for file in path.iterdir() if path.is_dir() else (path,):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        _sync_folder(path)


def _replace(new: Path, output: Path) -> None:
    """Give a file or folder its final name, whatever has it now."""
    if new.is_dir() or output.is_dir():
        # No folder that holds something can be replaced in one step.
        aside = output.with_name(output.name + ".replaced.partial")
        if output.exists():
            _remove(aside)
            os.replace(output, aside)
        os.replace(new, output)
        _remove(aside)
    else:
        os.replace(new, output)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
