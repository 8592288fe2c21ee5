"""What can go wrong, split by who must act.

FedmedError            exit 1  refused or failed
├── InputError         exit 1  the file, folder, recipe or setting that was given: whoever named it
│   ├── Misfit         exit 1  an image that the task is not about: whoever chose the one or the other
│   ├── Withheld       exit 1  the site's own policy keeps it in: whoever answers for that policy
│   └── Unwritable     exit 1  a folder or disk that takes no file: whoever looks after the disk
├── StoreError         exit 1  the server's store: its admin
├── NothingMatched     exit 4  no input fits the model or the task
├── TrustError         exit 5  a signature, a signer, a digest: do not use the file
├── DeviceError        exit 6  the device that was asked for is not usable
├── Undelivered        exit 7  a result was made but did not reach its destination: it can be sent again
└── Unreachable        exit 8  the other end did not answer: try again later

A message says what failed and shows what was found against what was expected; `hint` says what to do. Both
are one line that no terminal acts on, whatever a file of somebody else put into them.
"""

_LONGEST = 2000


def _one_line(text: str) -> str:
    plain = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text[:_LONGEST]
    )
    return plain + ("…" if len(text) > _LONGEST else "")


class FedmedError(Exception):
    """A refusal that a user can act on.

    Args:
        message: What failed, lower case, no full stop: ``file: `name` has GOT, expected WANTED``.
        hint: What to do about it, where that helps.

    Example:
        >>> refusal = FedmedError("a.png: image has 1 pixel, expected at least 2 a side", hint="scan again")
        >>> refusal.hint, refusal.exit_code
        ('scan again', 1)
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(_one_line(message))
        self.hint = None if hint is None else _one_line(hint)


class InputError(FedmedError):
    """A file, folder, recipe or setting that was given cannot be used."""


class Misfit(InputError):
    """An image is sound, and none that the task takes."""


class Withheld(InputError):
    """The site's policy does not let it leave; the server is told that and not why."""


class Unwritable(InputError):
    """A file cannot be written: the folder is missing or not writable, or the disk is full."""


class StoreError(FedmedError):
    """The server's store is damaged, in use or holds something else than expected."""


class NothingMatched(FedmedError):
    """No input fits what was asked for."""

    exit_code = 4


class TrustError(FedmedError):
    """A contribution or model whose origin or content cannot be trusted."""

    exit_code = 5


class DeviceError(FedmedError):
    """The device that was asked for is not usable here."""

    exit_code = 6


class Undelivered(FedmedError):
    """A result did not reach its destination."""

    exit_code = 7


class Unreachable(FedmedError):
    """The server, or a site, did not answer in time; trying again later makes sense."""

    exit_code = 8
