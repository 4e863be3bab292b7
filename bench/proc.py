"""Numbers in files of the kernel's."""

from pathlib import Path


def field(file: Path, name: str) -> int:
    """The number in the line "name number" or "name: number"; LookupError if there is none."""
    for line in file.read_text().splitlines():
        key, _, rest = line.partition(":" if ":" in line else " ")
        if key == name:
            return int(rest.split()[0])
    raise LookupError(f"no {name} in {file}")
