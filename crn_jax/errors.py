"""The one error that a person can act on."""


class UserError(ValueError):
    """Something in the files, weights, folders or settings is wrong; the message says what, where, and the remedy."""
