"""A cache with a slot for each request that is served, seen from the host.

Requests come and go, so which slots take part is data. Shapes are what a program is compiled for, and there are few:

- prompts are read in pieces of a few sizes; what fills up the last one lies behind the prompt, where the next token
  overwrites it;
- a call that writes takes all slots, or a quarter of them, or a quarter of that, some of them idle;
- either sees the first `length` places of its slots, for a few lengths, and not all that there is room for.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llm.inference import sampling, slot_programs
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.inference.slot_programs import SlotsState

MOST_STEPS = 4  # tokens that one call writes in a slot
MOST_TOP = 20  # most probable tokens that can be asked for at each place
SMALLEST_PIECE = 32  # tokens of a prompt that take little longer to read than one
SMALLEST_LENGTH = 128  # places of a slot that take little longer to attend to than one
SPREAD = 4  # from one size to the next; with 2, padding would cost less, and compiling twice as much


class Drawn(NamedTuple):
    """What one slot was given by a call of `write`.

    Attributes:
        ids: the tokens, at least one unless it failed.
        logprobs: of each; the model's, unfiltered, at temperature 1.
        top: for each, the most probable tokens as (id, log-probability), if any slot asked for some.
        failed: whether the logits of the next are not finite.
    """

    ids: list[int]
    logprobs: list[float]
    top: list[tuple[tuple[int, float], ...]]
    failed: bool


class Slots:
    """The slots of an engine: opened with a prompt, read into, written to. For one thread.

    Attributes:
        number: of slots.
        prefill_chunk: largest piece of a prompt.
    """

    def __init__(self, generator: Generator, number: int, capacity: int, prefill_chunk: int):
        """Nothing is allocated before `reset`.

        Args:
            generator: the model, its parameters and the tokens that end a text.
            number: of slots.
            capacity: tokens that fit a slot.
            prefill_chunk: largest piece, a power of two; pieces are no larger than what holds `capacity`.
        """
        self.number = number
        self.prefill_chunk = min(prefill_chunk, max(SMALLEST_PIECE, 1 << (capacity - 1).bit_length()))
        self._model, self._params = generator.model, generator.params
        self._stops = np.zeros(generator.model.config.vocab_size, bool)
        self._stops[list(generator.stop_ids)] = True
        self._most_top = min(MOST_TOP, generator.model.config.vocab_size)
        self._pieces = _sizes(self.prefill_chunk, min(SMALLEST_PIECE, self.prefill_chunk), 1)
        self._lengths = _sizes(capacity, SMALLEST_LENGTH, self._pieces[0])
        self._widths = _sizes(number, 1, 1)
        self._state: SlotsState | None = None
        self._held = [0] * number  # tokens that each slot's cache holds
        self._prompts: list[Sequence[int]] = [()] * number
        self._settings = None  # of the latest call: the slots at work with their settings, and what follows from them

    def reset(self) -> None:
        """Allocates all slots, empty."""
        self._state = self._settings = None  # first, so that memory is not needed twice
        state = slot_programs.create(self._model, self.number, self._lengths[-1])
        # Laid out as the programs return it: otherwise the first ones would be compiled again when requests come.
        place = jax.tree.leaves(self._params)[0].sharding
        if isinstance(place, NamedSharding):
            state = jax.device_put(state, NamedSharding(place.mesh, PartitionSpec()))
        self._state = state

    def warm_up(self) -> None:
        """Runs every program that there can be, on nothing, so that it is compiled."""
        state, zero = self._state, np.int32(0)
        state = slot_programs.open_slot(state, zero, zero)
        for length in self._lengths:
            for piece in self._pieces:
                if piece <= length:
                    tokens = np.zeros(piece, np.int32)
                    state = slot_programs.read(self._model, self._params, state, zero, tokens, zero, length)
            for width in self._widths:
                settings = sampling.stack([SamplingParams()] * width)
                budget = np.zeros(width, np.int32)
                state, _ = self._run(state, np.arange(width, dtype=np.int32), settings, budget, False, length)
        self._state = jax.block_until_ready(state)

    def open(self, slot: int, prompt: Sequence[int]) -> None:
        """Empties a slot and gives it a prompt of at least one id."""
        self._held[slot], self._prompts[slot] = 0, prompt
        self._state = slot_programs.open_slot(self._state, np.int32(slot), np.int32(prompt[-1]))

    def unread(self, slot: int) -> int:
        """Tokens of the prompt that are to be read before writing: all but the last, which the first step reads."""
        return len(self._prompts[slot]) - 1 - self._held[slot]

    def next_piece(self, slot: int) -> int:
        """The size of the next piece, at least half full unless it is the smallest."""
        places = self._lengths[-1] - self._held[slot]
        half_full = [size for size in self._pieces if size <= places and size < 2 * self.unread(slot)]
        return max(half_full, default=self._pieces[0])

    def read(self, slot: int) -> None:
        """Reads the next piece of the prompt."""
        held, piece = self._held[slot], self.next_piece(slot)
        size = min(piece, self.unread(slot))
        tokens = np.zeros(piece, np.int32)
        tokens[:size] = self._prompts[slot][held : held + size]
        length = self._length(held + piece)
        self._state = slot_programs.read(
            self._model, self._params, self._state, np.int32(slot), tokens, np.int32(size), length
        )
        self._held[slot] += size

    def wait(self) -> None:
        """Waits until the device has done what it was told."""
        jax.block_until_ready(self._state.token)

    def write(self, budgets: Mapping[int, int], settings: Mapping[int, SamplingParams], top: int) -> dict[int, Drawn]:
        """Writes in some slots, whose prompts are read.

        Args:
            budgets: most tokens for each of them, 1 to `MOST_STEPS`.
            settings: how each of them draws.
            top: most probable tokens to report at each place.
        """
        length = self._length(max(self._held[slot] + budget for slot, budget in budgets.items()))
        if self._settings is None or self._settings[0] != settings:
            width = min(width for width in self._widths if width >= len(settings))
            others = [slot for slot in range(self.number) if slot not in settings]
            used = sorted([*settings, *others[: width - len(settings)]])
            rows = sampling.stack([settings.get(slot, SamplingParams()) for slot in used])
            self._settings = dict(settings), used, rows
        _, used, rows = self._settings
        budget = np.array([budgets.get(slot, 0) for slot in used], np.int32)
        self._state, written = self._run(self._state, np.array(used, np.int32), rows, budget, top > 0, length)
        written = jax.tree.map(np.asarray, written)
        return {slot: self._drawn(slot, index, top, written) for index, slot in enumerate(used) if slot in budgets}

    def _drawn(self, slot: int, index: int, top: int, written: slot_programs.Written) -> Drawn:
        count = int(written.count[index])
        self._held[slot] += count
        ids, logprobs = (x[index, :count].tolist() for x in (written.tokens, written.logprobs))
        tops = [()] * count
        if top:
            columns = (x[index, :count, :top].tolist() for x in (written.top_ids, written.top_logprobs))
            tops = [tuple(zip(*row)) for row in zip(*columns)]
        return Drawn(ids, logprobs, tops, bool(written.failed[index]))

    def _run(self, state, used, rows, budget, with_top, length):
        return slot_programs.write(
            *(self._model, self._params, state, used, rows, self._stops, budget, np.array(with_top)),
            length=length,
            most_steps=MOST_STEPS,
            most_top=self._most_top,
        )

    def _length(self, places: int) -> int:
        return min(length for length in self._lengths if length >= places)


def _sizes(largest: int, smallest: int, multiple: int) -> list[int]:
    """`largest`, a quarter of it and so on down to `smallest`, each rounded up to a multiple; in rising order."""
    sizes = [largest]
    while sizes[-1] // SPREAD >= smallest:
        sizes.append(sizes[-1] // SPREAD)
    return sorted({-(-size // multiple) * multiple for size in sizes})
