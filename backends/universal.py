"""DeepSpeed's own checkpoint on another number of ranks: its universal form (Lian et al. 2024, arXiv 2406.18820)."""

import os
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from backends.base import BackendError


def discard(written: Path) -> None:
    """Remove a checkpoint and its universal form, where they are."""
    for folder in (written, universal_of(written)):
        shutil.rmtree(folder, ignore_errors=True)


def universal_of(written: Path) -> Path:
    """The folder of its universal form."""
    return written.with_name(f"{written.name}_universal")


def convert(written: Path) -> Path:
    """Write the universal form of a checkpoint of ZeRO 1, 2 or 3 beside it, once; returns its folder.

    DeepSpeed's converter knows the moments of Adam by name and no other optimizer's state. Raises BackendError where it fails.
    """
    from deepspeed.checkpoint import ds_to_universal  # it takes seconds

    universal = universal_of(written)
    if universal.is_dir():
        return universal
    partial = written.with_name(".converting") / universal.name
    shutil.rmtree(partial.parent, ignore_errors=True)  # what a conversion left that was ended
    asked = Namespace(
        input_folder=str(written),
        output_folder=str(partial),
        num_extract_workers=1,  # in this process: a pool of them would be forked out of a rank
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # it looks for what tensor parallelism leaves, and there is none
    )
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            ds_to_universal.main(asked)
    except Exception as error:  # whatever it is, the other ranks wait to be told
        raise BackendError(
            f"deepspeed cannot convert {written} for another number of ranks ({error!r}): "
            "start as many ranks as wrote it, or keep --checkpoint-every, which --resume auto takes up on any number"
        ) from error
    partial.replace(universal)
    shutil.rmtree(partial.parent)
    return universal
