"""A clock in place of the module `time`."""


class Clock:
    """Time that passes only where a test says so: `now`, in seconds."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def monotonic(self) -> float:
        """Returns the seconds since some moment."""
        return self.now

    perf_counter = monotonic

    def time(self) -> float:
        """Returns the seconds since 1970."""
        return 1_000_000 + self.now
