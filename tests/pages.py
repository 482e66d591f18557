"""Pages whose numbers a program writes: between two marks, so that they are never typed by hand."""

from pathlib import Path


def around(page: Path, mark: str) -> tuple[str, str]:
    """What stands on `page` before and after the place for `mark`, each with its mark.

    Raises:
        OSError: the page cannot be read.
        ValueError: it has no such place.
    """
    begin, end = f"<!-- begin: {mark} -->", f"<!-- end: {mark} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no {begin} ... {end}")
    return f"{before}{begin}", f"{end}{after}"


def paste(page: Path, mark: str, text: str) -> None:
    """Replace what stands on `page` between the marks that name the command `mark`."""
    before, after = around(page, mark)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
