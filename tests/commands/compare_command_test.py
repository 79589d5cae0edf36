import tyro

from llm.analysis import compare
from llm.commands import compare as command
from llm.config import Config, ModelConfig
from llm.workdir import Workdir

TINY = ModelConfig(vocab_size=300, context_length=256, num_layers=1, width=16, num_heads=2)


def test_the_table_goes_to_stdout_and_the_page_where_it_is_asked_for(tmp_path, capsys):
    paths = []
    for seed in (0, 1):
        workdir = Workdir(tmp_path / f'seed{seed}')
        workdir.path.mkdir()
        workdir.write_config(Config(model=TINY, seed=seed))
        paths.append(str(workdir.path))
    out = tmp_path / 'page.html'
    command.run(tyro.cli(command.Args, args=[*paths, '--out', str(out)]))
    printed = capsys.readouterr()
    assert printed.out == compare.text_table(compare.open_runs(paths)) + '\n'
    assert str(out) in printed.err
    assert 'seed1' in out.read_text()
