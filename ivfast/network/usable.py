"""Which backend is taken where nobody chose one: the default, or another where its framework is broken."""

import warnings
from contextlib import suppress

from ivfast.network.backend import import_backend, installed_backends
from ivfast.runtime.errors import UserError


def usable_backend(name: str) -> tuple[str, str]:
    """A backend that can be imported: this one, or another where its framework is installed and broken.

    returns: its name, and why it is another one than asked for, "" where it is not
    raises: UserError where none can be imported
    """
    installed = installed_backends()
    try:
        if name in installed:  # what lacks is told where it is loaded
            import_backend(name)
    except UserError as problem:
        for other in installed:
            with suppress(UserError):
                if other != name and import_backend(other):
                    return other, str(problem).split("; ")[0].removeprefix(f"--backend {name}: ")
        raise
    return name, ""


def some_backend() -> str:
    """The default of those installed, or another with a Python warning; for what has no other place to say it.

    raises: UserError as usable_backend
    """
    name, why = usable_backend(next(iter(installed_backends()), "jax"))
    if why:
        warnings.warn(f"{why}; backend {name} is used", RuntimeWarning, stacklevel=2)
    return name
