"""Print what pyproject.toml's build system requires, one per line: pip has no option to install just that."""

import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path("pyproject.toml").read_text())["build-system"]["requires"]))
