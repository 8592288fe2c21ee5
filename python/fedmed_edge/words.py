"""A number with its noun, in whatever people read."""

__all__ = ["counted"]


def counted(number: float, one: str, many: str | None = None) -> str:
    """How many of what.

    Args:
        one: What it is where there is one of it.
        many: What it is otherwise; None puts an s behind `one`.

    Example:
        >>> counted(1, "site"), counted(0, "site"), counted(2, "copy", "copies")
        ('1 site', '0 sites', '2 copies')
    """
    return f"{number:.12g} {one if number == 1 else many or f'{one}s'}"
