"""Times of interpolated frames: for doublings of the frame rate and for any target rate."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil


@dataclass(frozen=True)
class Timeline:
    """Output frames of an interpolation by the input frames that they lie between.

    Attributes:
        input_rate: Frames per second of the input, the mean of a variable rate.
        times: Start of each input frame in seconds and the end of the last one; None: a constant rate.
        exp: Number of doublings, where there is no target rate.
        target_rate: Frames per second of the output; None: doublings.
    """

    input_rate: Fraction
    times: tuple[Fraction, ...] | None = None
    exp: int = 1
    target_rate: Fraction | None = None

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second of the output."""
        return self.target_rate or self.input_rate * 2**self.exp

    def num_frames(self, num_inputs: int | None) -> int | None:
        """Frames of the output; None while the input's number is unknown."""
        if num_inputs is None:
            return None
        return self._first_output(num_inputs - 1) + self.repeats_of_last(num_inputs)

    def fractions(self, index: int) -> list[Fraction]:
        """Interpolation fractions in [0, 1) of the output frames between input frames index and index + 1.

        A fraction of 0 is the input frame itself.
        """
        if self.target_rate is None:
            return [Fraction(step, 2**self.exp) for step in range(2**self.exp)]
        start = self._start(index)
        duration = self._start(index + 1) - start
        outputs = range(self._first_output(index), self._first_output(index + 1))
        return [(output / self.target_rate - start) / duration for output in outputs]

    def repeats_of_last(self, num_inputs: int) -> int:
        """How often the last input frame is shown: once, or at a target rate up to the video's end."""
        if self.target_rate is None:
            return 1
        end = self.times[-1] if self.times else num_inputs / self.input_rate
        # However short the video is, it has a frame.
        total = max(round(end * self.target_rate), 1)
        return max(total - self._first_output(num_inputs - 1), 0)

    def _first_output(self, index: int) -> int:
        """Number of the first output frame that does not lie before input frame ``index``."""
        if self.target_rate is None:
            return index * 2**self.exp
        return ceil(self._start(index) * self.target_rate)

    def _start(self, index: int) -> Fraction:
        return self.times[index] if self.times else index / self.input_rate
