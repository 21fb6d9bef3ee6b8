"""Time stamps of packets and frames to one ascending timeline: restarts, repeats, gaps and frame rates.

All functions are pure. Stamps count in the stream's own ticks; None stands for a missing stamp.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import pairwise
from operator import lt
from statistics import median

import av

# Rates that files round: their time stamps are often too coarse to distinguish them.
_STANDARD_RATES = tuple(
    Fraction(rate)
    for rate in (
        "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60", "12", "15",
        "48000/1001", "100", "120000/1001", "120",
    )
)  # fmt: skip
# Smaller steps back are rounding or a single wrong stamp, not a new beginning.
_SMALLEST_RESTART = Fraction(1, 10)
# Transport streams: FFmpeg closes longer gaps too (its dts_delta_threshold).
_LARGEST_GAP = Fraction(10)
# Restarts of several tracks belong together if they jump by about the same time.
_SAME_JUMP = Fraction(1)
# If fewer stamps are in order, they are not stamps at all.
_SMALLEST_SHARE_IN_ORDER = Fraction(1, 2)


# The smallest number that the arrays hold.
NO_STAMP = -(2**63)
NO_LIMIT = 2**63


@dataclass
class Track:
    """Packets of one track in file order, with their times in ticks; ``NO_STAMP`` for a packet without.

    Attributes:
        kind: ``video``, ``audio`` or ``subtitle``.
        tick: In seconds.
        orders: When each packet is decoded.
        starts: When it is shown.
        durations: How long; 0 where the file does not tell.
        positions: Number of each packet in the file.
        corrupt: Numbers of the damaged packets in the track.
        has_times: Whether any packet has a time.
    """

    kind: str
    tick: Fraction
    orders: "array[int]" = field(default_factory=partial(array, "q"))
    starts: "array[int]" = field(default_factory=partial(array, "q"))
    durations: "array[int]" = field(default_factory=partial(array, "q"))
    positions: "array[int]" = field(default_factory=partial(array, "q"))
    corrupt: list[int] = field(default_factory=list)
    has_times: bool = False

    def add(self, packet: av.Packet, position: int) -> None:
        """Add one packet; one that does not say when it is shown is shown when it is decoded."""
        start = packet.dts if packet.pts is None else packet.pts
        self.orders.append(NO_STAMP if packet.dts is None else packet.dts)
        self.starts.append(NO_STAMP if start is None else start)
        self.durations.append(packet.duration or 0)
        self.has_times = self.has_times or start is not None
        if packet.is_corrupt:
            self.corrupt.append(len(self.positions))
        self.positions.append(position)

    def first_start(self, begin: int = 0, end: int | None = None) -> Fraction:
        """Earliest start of the packets from ``begin`` to ``end``, in seconds."""
        return min(start for start in self.starts[begin:end] if start != NO_STAMP) * self.tick

    def first_order(self) -> Fraction:
        """When the first packet is decoded, in seconds."""
        return min(order for order in self.orders if order != NO_STAMP) * self.tick

    def last_end(self, begin: int = 0, end: int | None = None) -> Fraction:
        """Latest end of the packets from ``begin`` to ``end``, in seconds.

        A packet without a duration lasts as long as the usual step between packets.
        """
        times = sorted(start for start in self.starts[begin:end] if start != NO_STAMP)
        step = 0 if any(self.durations[begin:end]) else usual_step(times)
        pairs = zip(self.starts[begin:end], self.durations[begin:end], strict=True)
        latest = max(start + (duration or step) for start, duration in pairs if start != NO_STAMP)
        return latest * self.tick


@dataclass(frozen=True)
class Restart:
    """A packet whose time does not follow from the one before it.

    Attributes:
        position: Number of the packet in the file, over all tracks.
        track: Index of the track.
        ordinal: Number of the packet in its track.
        jump: Its time less that of the packet before, in seconds.
    """

    position: int
    track: int
    ordinal: int
    jump: Fraction


@dataclass
class Shifts:
    """Seconds to add to the time stamps of each track, from packet to packet.

    Attributes:
        starts: For each track, ordinals of the packets at which a shift begins, ascending.
        seconds: For each track, the shift that begins there.
    """

    starts: dict[int, list[int]] = field(default_factory=dict)
    seconds: dict[int, list[Fraction]] = field(default_factory=dict)

    def of(self, track: int, ordinal: int) -> Fraction:
        """Seconds to add to the stamps of packet ``ordinal`` of ``track``."""
        index = bisect_right(self.starts.get(track, []), ordinal) - 1
        return self.seconds[track][index] if index >= 0 else Fraction(0)


def find_restarts(track: Track, close_gaps: bool) -> list[tuple[int, Fraction]]:
    """Find where the times of one track begin again, or leave a gap that joined files have.

    Args:
        track: Its packets.
        close_gaps: Also report steps forward of more than ten seconds.

    Returns:
        Ordinal and jump in seconds of each restart. A single wrong stamp is none.
    """
    least = int(_SMALLEST_RESTART / track.tick)
    most = int(_LARGEST_GAP / track.tick) if close_gaps else NO_LIMIT
    # Reordered frames start out of order: their starts tell nothing unless there is nothing else.
    orders = track.orders if max(track.orders, default=NO_STAMP) != NO_STAMP else track.starts
    known = []
    for ordinal, order in enumerate(orders):
        if order != NO_STAMP:
            known.append(ordinal)
    restarts = []
    before: int | None = None
    for index, ordinal in enumerate(known):
        order = orders[ordinal]
        if before is not None and not -least < order - before <= most:
            following = orders[known[index + 1]] if index + 1 < len(known) else order
            if -least < following - before <= most:
                continue
            restarts.append((ordinal, (order - before) * track.tick))
        before = order
    return restarts


def group_restarts(restarts: list[Restart]) -> list[list[Restart]]:
    """Group the restarts of several tracks that belong to one place where files were joined."""
    groups: list[list[Restart]] = []
    for restart in sorted(restarts, key=lambda each: each.position):
        group = groups[-1] if groups else []
        is_new = all(each.track != restart.track for each in group)
        if group and is_new and abs(group[0].jump - restart.jump) < _SAME_JUMP:
            group.append(restart)
        else:
            groups.append([restart])
    return groups


def shifts_for(restarts: list[Restart], tracks: dict[int, Track], leading: int) -> Shifts:
    """Shift every piece of a joined file behind the one before it.

    Args:
        restarts: Those of all tracks.
        tracks: By index.
        leading: Index of the track that must continue without a gap: the video.
    """
    shifts = Shifts()
    groups = group_restarts(restarts)
    ends_of_pieces = _piece_ends(groups, tracks)
    for group in groups:
        ordinals = {each.track: each.ordinal for each in group}
        track = leading if leading in ordinals else group[0].track
        ordinal = ordinals[track]
        begin = shifts.starts[track][-1] if track in shifts.starts else 0
        before = tracks[track].last_end(begin, ordinal) + shifts.of(track, begin)
        first = tracks[track].first_start(ordinal, ends_of_pieces[track, ordinal])
        for each in group:
            shifts.starts.setdefault(each.track, []).append(each.ordinal)
            shifts.seconds.setdefault(each.track, []).append(before - first)
    return shifts


def _piece_ends(groups: list[list[Restart]], tracks: dict[int, Track]) -> dict[tuple[int, int], int]:
    """End ordinal of the piece that begins at each (track, ordinal)."""
    starts: dict[int, list[int]] = {}
    for group in groups:
        for restart in group:
            starts.setdefault(restart.track, []).append(restart.ordinal)
    ends = {}
    for track, ordinals in starts.items():
        for start, end in zip(ordinals, [*ordinals[1:], len(tracks[track].starts)], strict=True):
            ends[track, start] = end
    return ends


def longest_ascending(stamps: Sequence[int]) -> list[int]:
    """Indices of a longest strictly ascending subsequence; of several, one that keeps early entries."""
    tails: list[int] = []
    tail_indices: list[int] = []
    following: dict[int, int] = {}
    # From the end, with the signs turned: a stamp that falls back then yields to the one before it.
    for index in range(len(stamps) - 1, -1, -1):
        length = bisect_left(tails, -stamps[index])
        if length:
            following[index] = tail_indices[length - 1]
        tails[length : length + 1] = [-stamps[index]]
        tail_indices[length : length + 1] = [index]
    indices = []
    index = tail_indices[-1] if tail_indices else -1
    while index >= 0:
        indices.append(index)
        index = following.get(index, -1)
    return indices


@dataclass(frozen=True)
class Times:
    """Start of each frame in ticks from the first, all different and ascending.

    Attributes:
        starts: One for each frame; fractions where stamps had to be spaced anew.
        num_moved: Frames whose own stamp was missing, repeated or out of order.
    """

    starts: list[Fraction]
    num_moved: int


def order_stamps(stamps: Sequence[int | None], duration: Fraction) -> Times | None:
    """Bring the time stamps of frames into ascending order.

    Frames without a stamp of their own, or with one that is repeated or out of order, are spaced evenly between
    their neighbours.

    Args:
        stamps: In the order in which the frames are shown.
        duration: Usual duration of a frame in ticks, used after the last good stamp.

    Returns:
        None if most stamps are missing or out of order.
    """
    indices = [index for index, stamp in enumerate(stamps) if stamp is not None]
    values = [stamp for stamp in stamps if stamp is not None]
    if values and len(values) == len(stamps) and all(map(lt, values, values[1:])):
        return Times(starts=[Fraction(value - values[0]) for value in values], num_moved=0)
    good = [indices[index] for index in longest_ascending(values)]
    if not good or len(good) < len(stamps) * _SMALLEST_SHARE_IN_ORDER:
        return None
    starts = [Fraction(0)] * len(stamps)
    for index in good:
        starts[index] = Fraction(values[bisect_left(indices, index)])
    for index in range(good[0] - 1, -1, -1):
        starts[index] = starts[index + 1] - duration
    for before, after in pairwise(good):
        step = (starts[after] - starts[before]) / (after - before)
        for index in range(before + 1, after):
            starts[index] = starts[before] + (index - before) * step
    for index in range(good[-1] + 1, len(stamps)):
        starts[index] = starts[index - 1] + duration
    return Times(starts=[start - starts[0] for start in starts], num_moved=len(stamps) - len(good))


def usual_step(stamps: Sequence[int | None]) -> Fraction:
    """Median step between neighbouring stamps that ascend; 0 without any."""
    steps = []
    before: int | None = None
    for stamp in stamps:
        if stamp is None:
            continue
        if before is not None and stamp > before:
            steps.append(stamp - before)
        before = stamp
    return Fraction(median(steps)) if steps else Fraction(0)


def constant_rate(starts: Sequence[Fraction], tick: Fraction, declared: Sequence[Fraction]) -> Fraction | None:
    """Return the frame rate if the frames have a constant one, up to the rounding of their stamps.

    Args:
        starts: Start of each frame in ticks from the first, at least two.
        tick: Unit of the stamps in seconds.
        declared: Rates that the file declares. Rates such as 19001/317, means of rounded stamps, yield to a standard
            rate that fits as well.
    """
    seconds = [start * tick for start in starts]
    mean = (len(starts) - 1) / seconds[-1]
    nearest = [Fraction(round(mean)), Fraction(round(mean * 1001 / 1000) * 1000, 1001)]
    exact = [rate for rate in declared if rate.denominator in (1, 1001)]
    candidates = [*exact, *_STANDARD_RATES, *declared, *(rate for rate in nearest if rate > 0)]
    for rate in candidates:
        # One tick either way is rounding, unless a tick is most of a frame.
        rounding = min(tick, 1 / (8 * rate))
        if all(abs(time - index / rate) <= rounding for index, time in enumerate(seconds)):
            return rate
    return None


def fill_gaps(starts: list[Fraction], step: Fraction) -> tuple[list[int], list[Fraction]]:
    """Repeat frames across gaps, so that the rate becomes constant where it can.

    Args:
        starts: Start of each frame in ticks, ascending.
        step: Usual duration of a frame in ticks.

    Returns:
        How often each frame is shown, and the starts of all that are shown.
    """
    if not step:
        return [1] * len(starts), starts
    counts = []
    filled = []
    for before, after in pairwise(starts):
        count = max(1, round((after - before) / step))
        counts.append(count)
        filled += [before + number * (after - before) / count for number in range(count)]
    return [*counts, 1], [*filled, starts[-1]]
