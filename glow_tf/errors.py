"""The errors that users meet."""


class ConfigError(ValueError):
    """A setting is wrong; the message says what was expected and what was received."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message names the part, the step and the bijector."""
