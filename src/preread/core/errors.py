"""The error tree.

Every error a user can meet says four things in one message: what was expected, what was got, what follows
from it, and what to do. Each class carries the exit code of the command line.
"""

from __future__ import annotations


class PrereadError(Exception):
    """Anything a user can meet.

    Args:
        expected: what the call needed.
        got: what it found instead.
        consequence: what was therefore not done, and what is untouched.
        remedy: what to do now.
    """

    exit_code = 1

    def __init__(self, expected: str, got: str, consequence: str, remedy: str) -> None:
        self.expected, self.got, self.consequence, self.remedy = expected, got, consequence, remedy
        super().__init__(f"Expected {expected}; got {got}. {consequence} {remedy}")

    def __reduce__(self) -> tuple[type[PrereadError], tuple[str, str, str, str]]:
        return type(self), (self.expected, self.got, self.consequence, self.remedy)


class UsageError(PrereadError):
    """The request itself is off: an unknown name, key, option or combination."""

    exit_code = 2


class UnreadableDocument(PrereadError):
    """A file cannot be made into a document (empty, scanned, corrupt, of an unknown kind)."""


class UnknownModel(PrereadError):
    """A model's name leads nowhere: no such folder, no network, or no such repository."""


class UnsupportedModel(PrereadError):
    """A model was found but its anatomy is not one this package can attach to."""


class WindowExceeded(PrereadError):
    """A prompt has more positions than the decoder was trained for."""


class EngineMismatch(PrereadError):
    """A method's prompts need something that the chosen engine does not take."""


class ResourceError(PrereadError):
    """Memory or disk ran out."""

    exit_code = 4


class IntegrityError(PrereadError):
    """Something stored or fetched is not what its hash or manifest says."""

    exit_code = 5


class FingerprintMismatch(IntegrityError):
    """A memory, compressor or adapter was made for other weights than those at hand."""


class LibraryBusy(PrereadError):
    """Another process is writing to the library."""


class Interrupted(PrereadError):
    """The user stopped the work; what was finished is kept and the same command goes on from there."""

    exit_code = 130


class PrereadWarning(UserWarning):
    """What a user must be told although the work goes on."""


class PartlyRead(PrereadWarning):
    """Parts of a document have no text and were not read."""


class BeyondTraining(PrereadWarning):
    """A compressor is asked to go further than it was trained: the result may be poor, and the user is told."""


class UnknownLanguage(PrereadWarning):
    """A text is in a language that a model does not know: answers may be poor."""


def first_line(error: BaseException) -> str:
    """What another library's error says, as a part of one of our messages: its first line, or else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
