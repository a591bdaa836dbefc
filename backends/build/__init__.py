"""Horovod, built from its released source archive against the torch that is installed: `python -m backends.build`."""


class BuildError(RuntimeError):
    """Horovod can't be built or installed here; the message says what is missing and what to type."""
