"""An engine that writes what it is told to, as slowly as it is told to: the server's own doings can be seen with it."""

import collections
import itertools
import threading
import time

import jax
import jax.numpy as jnp

from llm import chat
from llm.config import ModelConfig, TokenizerConfig
from llm.inference.engine import EngineStopped, Handle, QueueFull, Statistics
from llm.inference.generate import Generator
from llm.inference.requests import checked_prompt
from llm.model.transformer import Transformer
from llm.tokenizer import train

FIRST_BYTE = 16  # of the byte tokenizer


def script(prompt, seed):
    """What is written after a prompt: bytes that say which request it was, without end."""
    return itertools.cycle(f'{sum(prompt)}/{seed}é '.encode())


def make_params(context):
    """A tiny random model over bytes, and its parameters."""
    config = ModelConfig(vocab_size=272, context_length=context, num_layers=1, width=16, num_heads=2, init_std=0.5)
    model = Transformer(config)
    return model, jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))['params']


def make_generator(context=4096):
    tokenizer = train(TokenizerConfig(kind='byte'), 272, [])
    return Generator(*make_params(context), tokenizer, chat.stop_ids(tokenizer))


def wait_for(holds, seconds=10):
    """Waits until `holds()`, and fails if that takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.01)


class ScriptedEngine:
    """Writes one byte of `script` in each running request every `delay` seconds.

    A prompt that begins with the byte `!` fails, and one that begins with `?` raises its deadline at once.
    """

    def __init__(self, generator, slots=16, capacity=4096, max_queue=64, delay=0.0):
        self.generator, self.slots, self.capacity, self.max_queue, self.delay = (
            *(generator, slots, capacity, max_queue),
            delay,
        )
        self.handles = collections.deque(maxlen=100)  # the latest
        self._queue, self._running = [], []
        self._counts = dict.fromkeys(('accepted', 'refused', 'completed', 'cancelled', 'expired', 'failed'), 0)
        self._tokens = 0
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._stopped = False
        self.failure = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self._thread.start()

    def stop(self, drain=True, timeout=None):
        self._stopped = True
        with self._lock:
            for handle in [*self._queue, *self._running]:
                handle.cancelled = True
        self._wake.set()
        self._thread.join()

    def submit(self, request):
        if self._stopped:
            raise EngineStopped('the engine has stopped')
        prompt = checked_prompt(request, self.generator, self.capacity)
        with self._lock:
            if len(self._queue) >= self.max_queue:
                self._counts['refused'] += 1
                raise QueueFull('the queue is full')
            handle = Handle(request, prompt, self.generator, self._wake.set)
            handle.script, handle.written = script(handle.prompt, request.sampling.seed), 0
            self._counts['accepted'] += 1
            self.handles.append(handle)
            self._queue.append(handle)
        self._wake.set()
        return handle

    def statistics(self):
        with self._lock:
            counts = dict(self._counts)
            return Statistics(
                queued=len(self._queue), running=len(self._running), generated_tokens=self._tokens, **counts
            )

    def _run(self):
        while True:
            with self._lock:
                for handle in [handle for handle in self._queue if handle.cancelled]:
                    self._queue.remove(handle)
                    self._running.append(handle)  # to be ended at once
                while self._queue and len(self._running) < self.slots:
                    self._running.append(self._queue.pop(0))
                running = list(self._running)
                if self._stopped and not running and not self._queue:
                    return
            if not running:
                self._wake.wait(0.05)
                self._wake.clear()
                continue
            for handle in running:
                self._step(handle)
            with self._lock:
                for handle in running:
                    if handle.finish_reason is not None:
                        self._running.remove(handle)
                        kind = {'cancelled': 'cancelled', 'deadline': 'expired', 'error': 'failed'}
                        self._counts[kind.get(handle.finish_reason, 'completed')] += 1
            time.sleep(self.delay)

    def _step(self, handle):
        first = bytes(t - FIRST_BYTE for t in handle.prompt[1:2] if t >= FIRST_BYTE)
        if handle.cancelled:
            handle.finish('cancelled')
        elif first == b'!':
            handle.finish('error', 'a logit is not a number')
        elif first == b'?' or (handle.deadline is not None and time.monotonic() > handle.deadline):
            handle.finish('deadline')
        else:
            token = FIRST_BYTE + next(handle.script)
            top = tuple((token + i, -0.5 - i) for i in range(handle.request.top_logprobs))
            reason = handle.take([token], [-0.5], [top])
            self._tokens += 1
            handle.written += 1
            if reason is None and handle.written == handle.request.max_new_tokens:
                reason = 'length'
            handle.tell() if reason is None else handle.finish(reason)
