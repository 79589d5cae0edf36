"""64 streams at once, among slow, vanishing, deaf and hostile clients: nothing is lost, nobody is disturbed."""

import asyncio
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from crowd import crowd
from plain_http import ask, post
from scripted_engine import ScriptedEngine, wait_for


def test_sixty_four_streams_among_bad_clients(start, generator):
    engine = ScriptedEngine(generator, slots=48, max_queue=256, delay=0.001)
    with start(engine) as server:
        asyncio.run(crowd(server.port, generator))
        wait_for(lambda: not server.service.exchanges)
        wait_for(lambda: engine.statistics().running == engine.statistics().queued == 0)
        counts = engine.statistics()
        # 64 good clients with two texts each, 8 patient ones; the others were given up.
        assert counts.completed >= 136 and counts.failed == counts.expired == counts.refused == 0
        assert counts.accepted == counts.completed + counts.cancelled
        assert counts.cancelled >= 8
        wait_for(lambda: not server.connections)
        assert post(server)[0] == 200


@pytest.mark.slow
def test_memory_stays_flat(generator):
    """Rounds of a crowd that is larger than the queue, against a process of its own."""
    script = pathlib.Path(__file__).with_name('scripted_server.py')
    paths = os.pathsep.join([str(script.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {'PYTHONPATH': paths},
    )
    try:
        port = int(re.search(r':(\d+)/v1', process.stdout.readline())[1])
        server = type('Server', (), {'port': port})

        def measure(name):
            text = ask(server, 'GET', '/metrics')[2].decode()
            return float(re.search(rf'^{name}(?:{{.*}})? (\S+)$', text, re.MULTILINE)[1])

        memory = []
        for number in range(12):
            asyncio.run(crowd(port, generator, tokens=200, retries=50, seed=number))
            wait_for(lambda: measure('glassbox_connections') == 1, 60)  # this one
            assert measure('glassbox_running') == measure('glassbox_queued') == 0
            memory.append(measure('process_resident_memory_bytes') / 2**20)
        print('MiB after each round:', *(f'{mebibytes:.0f}' for mebibytes in memory))
        assert max(memory[-3:]) - max(memory[3:6]) < 4
        assert measure('process_open_fds') < 40
        assert measure('glassbox_texts_accepted_total') == sum(
            measure(f'glassbox_texts_{kind}_total') for kind in ('completed', 'cancelled', 'expired', 'failed')
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
