"""Errors that a user can cause or fix. Each message says what was given, what was expected and what to do."""


class LTXError(Exception):
    """Base class of all errors that this library raises on purpose."""


class CheckpointError(LTXError):
    """A checkpoint file is missing, damaged, of another network, or does not fit its config."""


class DownloadError(LTXError):
    """A published file cannot be downloaded, or differs from what was published."""


class RequestError(LTXError):
    """A request cannot be carried out as given: size, frame count, rate, option."""


class MemoryBudgetError(LTXError):
    """A stage needs more memory than the budget allows."""


class MediaError(LTXError):
    """A video, image or audio file cannot be read or written."""


class OutputError(LTXError):
    """Invalid output: NaN, a single colour, or identical frames."""
