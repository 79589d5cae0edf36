"""Decoding with and without a draft model, in turn: tokens per second, and how many drafts are kept.

    python experiments/benchmarks/speculative.py --workdir DIR --draft DIR --out FOLDER

Prompts are beginnings of Python code. Wall and processor time of each way, round by round; the ratio is
that of the two in one round.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

PROMPTS = [
    'import os\nimport sys\n\n\ndef ',
    'class Error(Exception):\n    """',
    'for i in range(',
    'def __init__(self, ',
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workdir', type=Path, required=True, help='of the model')
    parser.add_argument('--draft', type=Path, required=True, help='of the small model that drafts')
    parser.add_argument('--out', type=Path, required=True, help='folder for speculative.json and .md')
    parser.add_argument('--tokens', type=int, nargs='+', default=[2, 4], help='drafted at a time')
    parser.add_argument('--temperatures', type=float, nargs='+', default=[0.0, 1.0])
    parser.add_argument('--new-tokens', type=int, default=200)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()

    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(arguments.workdir)
    runtime.prepare_host(workdir)
    from llm.inference.decode import Decoder
    from llm.inference.generate import load_generator
    from llm.inference.sampling import SamplingParams
    from llm.inference.speculative import SpeculativeDecoder

    generator = load_generator(workdir, draft=Workdir.open(arguments.draft))
    prompts = [generator.encode(prompt) for prompt in PROMPTS]
    common = {'max_new_tokens': arguments.new_tokens}

    def write(prompt, sampling, drafts):
        start, cpu = time.perf_counter(), time.process_time()
        if drafts:
            draft = generator.draft._replace(tokens=drafts)
            decoder = SpeculativeDecoder(generator.model, generator.params, draft, prompt, sampling, **common)
        else:
            decoder = Decoder(generator.model, generator.params, [prompt], [sampling], **common)
        (row,) = decoder.advance(arguments.new_tokens)
        assert len(row) == arguments.new_tokens
        kept = decoder.kept / (drafts * decoder.rounds) if drafts else None
        return {'seconds': time.perf_counter() - start, 'cpu': time.process_time() - cpu, 'kept': kept}

    ways = [0, *arguments.tokens]
    found = []
    for temperature in arguments.temperatures:
        rounds = []
        for number in range(arguments.rounds + 1):  # the first compiles
            turn = {}
            for drafts in ways:
                sampling = SamplingParams(temperature=temperature, seed=number)
                each = [write(prompt, sampling, drafts) for prompt in prompts]
                turn[drafts] = {key: sum(x[key] for x in each) for key in ('seconds', 'cpu')}
                turn[drafts]['kept'] = statistics.mean(x['kept'] for x in each) if drafts else None
            rounds.append(turn)
        rounds = rounds[1:]
        middle = lambda drafts, key, rounds=rounds: statistics.median(turn[drafts][key] for turn in rounds)
        for drafts in ways:
            against = lambda key, drafts=drafts, rounds=rounds: statistics.median(
                turn[0][key] / turn[drafts][key] for turn in rounds
            )
            found.append(
                {
                    'temperature': temperature,
                    'drafted': drafts,
                    'tokens_per_second': len(prompts) * arguments.new_tokens / middle(drafts, 'seconds'),
                    'kept': middle(drafts, 'kept') if drafts else None,
                    'speed_up': against('seconds'),
                    'of_cpu_time': against('cpu'),
                }
            )
    lines = ['| temperature | drafted | kept | tokens/s | speed-up | of processor time |', '|---|---|---|---|---|---|']
    for row in found:
        kept = '' if row['kept'] is None else f'{row["kept"]:.0%}'
        numbers = f'{row["tokens_per_second"]:,.0f} | {row["speed_up"]:.2f} | {row["of_cpu_time"]:.2f}'
        lines.append(f'| {row["temperature"]:g} | {row["drafted"]} | {kept} | {numbers} |')
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'speculative.json').write_text(json.dumps(found, indent=1) + '\n')
    (arguments.out / 'speculative.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
