"""Compiles the C of the core (`segstream/core/c`) when segstream is built or installed.

Where that fails, for want of a compiler or of Python's headers, what is built is plain Python: the
same results, only slower (`docs/decisions/0019-compiled.md`).
"""

import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

# Without contraction: a fused multiply-add would round once where numpy rounds twice. Hidden: libc
# has functions of the same names.
FLAGS = [] if os.name == "nt" else ["-O3", "-ffp-contract=off", "-fvisibility=hidden"]


class CompiledCore(BuildHookInterface[Any]):
    """The hook of wheels and of editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile beside the Python that uses it."""
        sources = sorted(Path(self.root, "segstream", "core", "c").glob("*.c"))
        here = [str(path.relative_to(self.root)) for path in sources]
        extension = Extension("segstream.core._compiled", here, extra_compile_args=FLAGS)
        made = f"segstream/core/_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
        before = Path.cwd()
        # What an older source was compiled to must not stay, if this one cannot be.
        Path(self.root, made).unlink(missing_ok=True)
        try:
            os.chdir(self.root)
            command = build_ext(Distribution({"name": "segstream", "ext_modules": [extension]}))
            command.inplace = True
            command.ensure_finalized()
            command.run()
        except Exception as error:  # noqa: BLE001 (whatever it is, there is another way)
            self.app.display_warning(f"segstream is installed without compiled code: {error}")
            return
        finally:
            os.chdir(before)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(made)
