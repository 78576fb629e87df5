"""A distribution that is not installed but found: a folder on the path with its metadata."""

from __future__ import annotations

from pathlib import Path


def write_distribution(
    folder: Path, name: str, group: str, entries: dict[str, str], source: str
) -> Path:
    """Write version 1.2 of ``name``, with ``source`` as its module; ``entries`` by entry name."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{module}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"[{group}]", *(f"{entry} = {target}" for entry, target in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
