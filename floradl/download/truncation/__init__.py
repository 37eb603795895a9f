"""Whether a file is whole, judged by its own format: the last resort where a server gave no length.

What enters is a file and the extension that its content has; what leaves is a judgement. `True` is only said
where the format proves that nothing is missing: it marks its end, or states its length, and the file ends
there. `False` means that bytes are missing for sure. All else is `None`: a format that may always go on (a
further Ogg link, gzip member, fragment, or update of a PDF), a writer that left no length, and whatever
somebody appended behind the end.

Nothing here follows a file without bounds: reads are by position, steps are counted, nothing recurs.
"""

from __future__ import annotations

# These register the judges.
from floradl.download.truncation import audio, documents, images, rasters, riff, video  # noqa: F401
from floradl.download.truncation.window import JUDGES, ReadAt, Window


def is_whole(read: ReadAt, size: int, extension: str) -> bool | None:
    """Say whether the file of `size` bytes that `read` reads is whole, as its `extension` (`.png`) has it.

    Raises what `read` does.
    """
    judge = JUDGES.get(extension)
    return judge(Window(read, size)) if judge else None
