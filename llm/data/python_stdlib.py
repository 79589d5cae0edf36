"""The embedded corpus: the source of the Python standard library, which every machine that runs this has, as a TFDS
dataset in the array_record format (the default format needs TensorFlow)."""

import os
import pathlib
import sys
import sysconfig
from collections.abc import Iterator

import tensorflow_datasets as tfds

_LEFT_OUT = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__'}  # names of folders


def source_folder() -> pathlib.Path:
    return pathlib.Path(sysconfig.get_paths()['stdlib'])


def source_files() -> list[pathlib.Path]:
    """The library's own `*.py` files, sorted: no tests, nothing that was installed later."""
    found = []
    for folder, folders, names in os.walk(source_folder()):
        folders[:] = set(folders) - _LEFT_OUT  # os.walk goes down those that are left
        found += [pathlib.Path(folder, name) for name in names if name.endswith('.py')]
    return sorted(path for path in found if path.is_file())


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """One example per file: `identity`, its POSIX path relative to the library, and `text`, its bytes."""

    VERSION = tfds.core.Version('{}.{}.{}'.format(*sys.version_info[:3]))

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({'identity': tfds.features.Text(), 'text': tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(source_files())}

    def _generate_examples(self, files: list[pathlib.Path]) -> Iterator[tuple[str, dict[str, str | bytes]]]:
        for path in files:
            identity = path.relative_to(source_folder()).as_posix()
            yield identity, {'identity': identity, 'text': path.read_bytes()}
