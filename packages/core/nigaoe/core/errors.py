"""Failures that a user can mend. Each is one sentence: the thing, what was expected, what to do."""


class NigaoeError(ValueError):
    """Base of all of them; a command ends with exit code 2, a request with HTTP 4xx."""


class ConfigError(NigaoeError):
    """A config file or an override is wrong."""


class ImageError(NigaoeError):
    """A picture cannot be read, is too large or has the wrong range."""


class DataError(NigaoeError):
    """A dataset's captions or files are wrong."""


class AdapterError(NigaoeError):
    """An adapter file cannot be read or does not fit the base."""


class BaseModelError(NigaoeError):
    """A base model or an image encoder cannot be found or loaded."""


class RequestError(NigaoeError):
    """A generation was asked for that cannot be made."""


class GenerationError(RuntimeError):
    """One picture could not be drawn, for a reason of its own; those beside it were."""
