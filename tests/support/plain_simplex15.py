"""A decoder of simplex15 in plain Python, one digit at a time, written from docs/reference/wire-format.md."""

from edgefd_proto import edgefd_pb2 as pb


class Table:
    """Counts of the digits in each context."""

    def __init__(self, contexts: int) -> None:
        self.counts = [[1] * 16 for _ in range(contexts)]
        self.coded = self.next = 0
        self.refresh()

    def refresh(self) -> None:
        self.frequencies = []
        for counts in self.counts:
            total = sum(counts)
            f = [1 + n * (32768 - 16) // total for n in counts]
            f[counts.index(max(counts))] += 32768 - sum(f)
            self.frequencies.append(f)


class Stream:
    """Lanes and words."""

    def __init__(self, data: bytes, lanes: int) -> None:
        self.states = [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(lanes)]
        self.words = [int.from_bytes(data[i : i + 2], "little") for i in range(4 * lanes, len(data), 2)]
        self.words.reverse()

    def digits(self, table: Table, contexts: list[int]) -> list[int]:
        """Return one digit for each context."""
        out: list[int] = []
        table.coded = table.next = 0
        for first in range(0, len(contexts), len(self.states)):
            if table.coded >= table.next:
                table.refresh()
                table.next = table.coded + 1 + table.coded // 4
            step = contexts[first : first + len(self.states)]
            for lane, context in enumerate(step):
                out.append(self.digit(lane, table.frequencies[context]))
            for context, digit in zip(step, out[first:], strict=True):
                table.counts[context][digit] += 8
            table.coded += len(step)
        return out

    def digit(self, lane: int, frequencies: list[int]) -> int:
        x = self.states[lane]
        slot, digit = x % 32768, 0
        while slot >= frequencies[digit]:
            slot -= frequencies[digit]
            digit += 1
        x = frequencies[digit] * (x // 32768) + slot
        if x < 65536:
            x = x * 65536 + self.words.pop()
        self.states[lane] = x
        return digit


def numbers(stream: Stream, table: Table, digits: int, contexts: list[int]) -> list[int]:
    out = [0] * len(contexts)
    for i in range(digits):
        contexts = stream.digits(table, [c + 16 * i for c in contexts])
        out = [16 * number + digit for number, digit in zip(out, contexts, strict=True)]
    return out


def lengths(stream: Stream, sizes: Table, table: Table, kind: int, runs: int) -> list[int]:
    n_digits, out = stream.digits(sizes, [kind] * runs), [0] * runs
    for i in reversed(range(max(n_digits))):
        rows = [r for r in range(runs) if n_digits[r] > i]
        contexts = [9 * kind + (n_digits[r] if n_digits[r] == i + 1 else 0) for r in rows]
        for r, digit in zip(rows, stream.digits(table, contexts), strict=True):
            out[r] = 16 * out[r] + digit
    return out


def decode(data: bytes) -> tuple[list[int], list[list[float]], list[float]]:
    """Return ids, rows and weights of serialised knowledge with at least one row."""
    message = pb.Knowledge.FromString(data)
    n, width = message.rows, message.width
    class_digits = max(1, -(-(width - 1).bit_length() // 4))
    stream = Stream(message.values, min(-(-n // 48), 128))
    sizes, digits_of_lengths = Table(2), Table(18)
    absent, present = (lengths(stream, sizes, digits_of_lengths, kind, message.runs) for kind in (0, 1))
    ids: list[int] = []
    position = -1
    for missing, there in zip(absent, present, strict=True):
        position += missing + 1
        ids += range(position, position + there + 1)
        position += there + 1
    weights = [1.0] * n
    if message.weighted:
        weights = [2 ** (-w / 4) for w in numbers(stream, Table(32), 2, [0] * n)]
    rows, rest, context = [[0] * width for _ in range(n)], [15] * n, [0] * n
    first, others, parts = Table(16 * class_digits), Table(16 * class_digits), Table(16)
    table, open_rows = first, list(range(n))
    while open_rows:
        classes = numbers(stream, table, class_digits, [context[r] for r in open_rows])
        several = [r for r in open_rows if rest[r] > 1]
        left = dict(zip(several, stream.digits(parts, [rest[r] for r in several]), strict=True))
        for r, c in zip(open_rows, classes, strict=True):
            rows[r][c] = rest[r] - left.get(r, 0)
            rest[r] = left.get(r, 0)
            if table is first:
                context[r] = c >> 4 * (class_digits - 1)
        table, open_rows = others, [r for r in open_rows if rest[r]]
    assert not stream.words
    assert set(stream.states) == {65536}
    return ids, [[number / 15 for number in row] for row in rows], weights
