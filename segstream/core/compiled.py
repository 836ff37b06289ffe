"""What is compiled from C (`c/`), where there was a compiler when segstream was installed.

Without it numpy and msgspec compute the same, bit for bit, only slower: whoever uses a function of
it has the other way as well (`docs/decisions/0019-compiled.md`).
"""

from types import ModuleType

functions: ModuleType | None
try:
    from segstream.core import _compiled

    functions = _compiled
except ImportError:
    functions = None
