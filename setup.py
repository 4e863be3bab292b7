"""Build of the compiled core; all else is declared in pyproject.toml."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

SOURCE = Path("src")

blosc2 = find_spec("blosc2")
if blosc2 is None or blosc2.origin is None:
    raise SystemExit("frontswap needs the blosc2 wheel to build: pip install blosc2==4.14.1")
BLOSC2_ARCHIVE = Path(blosc2.origin).parent / "lib" / "libblosc2.a"


def extension(source: Path) -> Extension:
    """One compiled module. Only these two call the compression library, so only they link the archive."""
    return Extension(
        ".".join(source.relative_to(SOURCE).with_suffix("").parts),
        [str(source)],
        include_dirs=[np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("CYTHON_CCOMPLEX", "0")],
        depends=["setup.py"],
        # v2 (2009) is what every x86-64 host has; the shuffles choose AVX2 and AVX-512 at run time
        extra_compile_args=["-O3", "-g", "-march=x86-64-v2", "-fno-strict-aliasing", "-fvisibility=hidden"],
        extra_objects=[str(BLOSC2_ARCHIVE)] if source.stem in ("codec", "dense") else [],
        extra_link_args=["-Wl,--exclude-libs,ALL"],
    )


# Python reads it as it starts, beside the packages: `frontswap run` is found by it (memory/startup.py).
PTH = SOURCE / "frontswap_run.pth"


class BuildWithPth(build_py):  # type: ignore[misc]
    """A wheel has the .pth file at its top."""

    def run(self) -> None:
        super().run()
        self.copy_file(str(PTH), str(Path(self.build_lib, PTH.name)))


class EditableWithPth(editable_wheel):  # type: ignore[misc]
    """So has an editable one, which takes nothing else from what is built. (As coverage.py does it.)"""

    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("*editable*.whl"):
            with zipfile.ZipFile(wheel, "a") as archive:
                archive.write(PTH, PTH.name)


setup(
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
    options={"build_ext": {"parallel": True}},
    ext_modules=cythonize(
        # a .py with a .pxd beside it is compiled (Cython's pure Python mode)
        [extension(path) for path in sorted(SOURCE.rglob("*.py")) if path.with_suffix(".pxd").exists()],
        build_dir="build/cython",
        include_path=["src"],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "nonecheck": False,
        },
    ),
)
