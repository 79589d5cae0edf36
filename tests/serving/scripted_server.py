"""A server around a scripted engine, in a process of its own; says on stdout where it answers."""

import functools

from scripted_engine import ScriptedEngine, make_generator

from llm.serving import server
from llm.serving.guard import Guard
from llm.serving.service import Limits, Service

if __name__ == '__main__':
    generator = make_generator()
    engine = ScriptedEngine(generator, slots=32, max_queue=96, delay=0.001)
    limits = Limits(max_body=2**16, max_new_tokens=2048, max_choices=8, max_exchanges=128, request_timeout=60.0)
    service = Service(engine, generator, 'tiny', engine.capacity, limits)
    server.run(service, functools.partial(Guard), server.listen('127.0.0.1', 0), drain_seconds=5.0)
