"""Many clients at once, good and bad, and what the good ones must have seen."""

import asyncio
import contextlib
import itertools
import random

import openai
from plain_http import BODY, raw_request
from scripted_engine import script

WRONG = (
    raw_request(b'{"prompt": '),
    raw_request(b'[' * 30_000),
    raw_request(b'{"prompt": "x", "n": -1}'),
    raw_request(b'x' * 300_000),
    raw_request(b'{"prompt": "\xff"}'),
    raw_request(BODY, headers='Origin: https://evil.example\r\n'),
    raw_request(BODY, path='/v1/nowhere'),
    b'GARBAGE\r\n\r\n',
    b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n',
    b'\x16\x03\x01\x00\xff' * 100,
)


def written(prompt_ids, seed, tokens):
    return bytes(itertools.islice(script(prompt_ids, seed), tokens)).decode('utf-8', 'replace')


async def good(client, generator, number, tokens, pause=0.0):
    """Streams two texts to their ends; they must be the ones that were asked for."""
    prompt = f'good {number}'
    texts, reasons = {0: '', 1: ''}, {}
    stream = await client.completions.create(
        model='tiny', prompt=prompt, max_tokens=tokens, seed=number, n=2, stream=True
    )
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
        await asyncio.sleep(pause)
    ids = generator.encode(prompt)
    assert texts == {i: written(ids, number + i, tokens) for i in (0, 1)}
    assert reasons == {0: 'length', 1: 'length'}


async def patient(client, generator, number, tokens):
    """Waits for a whole text."""
    answer = await client.completions.create(model='tiny', prompt='patient', max_tokens=tokens, seed=number)
    assert answer.choices[0].text == written(generator.encode('patient'), number, tokens)


async def vanishing(port, after):
    """Leaves after so many bytes of the answer."""
    body = BODY | {'max_tokens': 2000, 'stream': after % 2 == 0, 'prompt': 'vanishing'}
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(raw_request(body))
    await writer.drain()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(after), 0.5)
    writer.transport.abort()


async def deaf(port, seconds):
    """Asks for much and reads nothing."""
    body = BODY | {'max_tokens': 2000, 'n': 2, 'stream': True, 'logprobs': 5, 'prompt': 'deaf'}
    reader, writer = await asyncio.open_connection('127.0.0.1', port, limit=1024)
    writer.transport.pause_reading()
    writer.write(raw_request(body))
    await asyncio.sleep(seconds)
    writer.transport.abort()


async def hostile(port, number):
    """Sends what is wrong; is told so, or cut off."""
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(WRONG[number % len(WRONG)])
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(65536), 2)
        assert answer == b'' or answer.startswith(b'HTTP/1.1 4'), answer[:200]
        assert b'Traceback' not in answer
    writer.transport.abort()


async def mute(port, seconds):
    """Opens a connection and begins a request that never ends."""
    _, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nHo')
    await asyncio.sleep(seconds)
    writer.transport.abort()


async def crowd(port, generator, streams=64, tokens=60, bad=8, retries=0, seed=0):
    """All at once, in any order. Raises what a good client did not like."""
    client = openai.AsyncOpenAI(
        base_url=f'http://127.0.0.1:{port}/v1', api_key='none', max_retries=retries, timeout=120.0
    )
    people = [good(client, generator, number, tokens) for number in range(streams - bad)]
    people += [good(client, generator, streams - bad + number, tokens, pause=0.02) for number in range(bad)]
    people += [patient(client, generator, number, tokens) for number in range(bad)]
    people += [vanishing(port, number * 97 + 1) for number in range(bad)]
    people += [hostile(port, number) for number in range(2 * bad)]
    people += [maker(port, 1.0) for maker in (deaf, mute) for _ in range(bad // 2)]
    random.Random(seed).shuffle(people)
    await asyncio.gather(*people)
    await client.close()
