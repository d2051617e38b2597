"""What a user is told: that something cannot be used, or that it may not mean what was read. Imports nothing."""


class InputError(ValueError):
    """What the user gave cannot be used: one line that names the place and what to do."""


class TrainingError(RuntimeError):
    """A training run cannot go on; the message says why and what to do."""


class DataWarning(UserWarning):
    """Something in the data may not mean what it was read as, or is not used."""


class Doubt(str):
    """A note of what a DataWarning says, where a program and not a person is told."""

    __slots__ = ()
