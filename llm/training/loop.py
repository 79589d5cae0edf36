"""The training loop. Dispatches step N, then reads the metrics of step N - 1: the host never holds the device up."""

import contextlib
import json
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from filelock import FileLock, Timeout
from tqdm import tqdm

from llm import config_json, runtime
from llm.config import Config, NextToken, RewardModel
from llm.data.batches import data_index
from llm.environment import code_version, environment
from llm.errors import Interrupted, MachineError, UserError
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.model import Transformer
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer
from llm.training import divergence
from llm.training.checkpoint import Checkpoints, params_sha256, save_frozen
from llm.training.evaluate import make_evaluator
from llm.training.evaluate_preferences import PreferenceEvaluator
from llm.training.initialize import begin, initialize, restore
from llm.training.ledger import Ledger
from llm.training.metrics import MetricsWriter, NoWriter
from llm.training.reference import attach_reference, needs_reference
from llm.training.signals import StopSignal
from llm.training.stages import load_data, make_step, train_batches
from llm.training.train_state import placed_state
from llm.training.train_step import full_params, hyperparameters
from llm.workdir import Workdir

STATISTICS_ROWS = 2048  # most rankings that a reward model's mean and deviation are taken over
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95)  # of the samples along the way


def train(
    config: Config, path: str | os.PathLike, progress: bool = True, devices: list[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains until `config.training.steps` updates are made, going on where the workdir stopped.

    Args:
        config: the run's.
        path: the workdir; made if there is none.
        progress: whether to draw a progress bar on stderr.
        devices: what to train on; None is all there are.

    Returns:
        The summary, as stored in summary.json.

    Raises:
        UserError: if the workdir holds another run, or the config or its data cannot be used.
        MachineError: if the loss diverges for good, or the disk is full.
        Interrupted: if a signal came; the state is saved.
    """
    workdir = Workdir(path)
    if workdir.path.exists() and not workdir.path.is_dir():
        raise UserError(f'{workdir.path} is a file; choose another --workdir')
    _check_stored(config, workdir)
    if (summary := workdir.summary()).get('status') == 'done' and summary['step'] == config.training.steps:
        logging.info('%s is done: %s', workdir.path, summary['message'])
        return summary
    runtime.check(config)
    data = load_data(config, _existing_tokenizer(config, workdir))
    batches = train_batches(config, data)
    mesh = mesh_lib.make_mesh(config.parallel, devices)
    mesh_lib.check_divides(config, mesh)
    workdir.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(workdir.path / '.lock', timeout=0) if distributed.is_main() else contextlib.nullcontext():
            choices = _agreed_choices(config, workdir, data)
            run = _Run(runtime.resolve(config, choices), workdir, data, batches, mesh)
            # Last, so that a start that is refused leaves nothing behind that the next one would trip over.
            if distributed.is_main():
                workdir.write_runtime(choices)
                if not workdir.tokenizer_file.is_file():
                    data.tokenizer.save(workdir.tokenizer_file)
                workdir.write_config(config)
            try:
                return run.train(progress)
            except (MachineError, UserError) as error:  # such as a reward function that fails
                with contextlib.suppress(OSError):  # the disk may be what failed
                    run.write_summary('failed', str(error))
                raise
            finally:
                run.close()
    except Timeout as error:
        raise UserError(
            f'another process is training in {workdir.path}; wait for it, or use another workdir'
        ) from error


def _agreed_choices(config: Config, workdir: Workdir, data: Any) -> dict[str, Any]:
    """`runtime.choose` as process 0 did, for all."""
    choices = distributed.agree(runtime.choose(config, workdir, data.digest) if distributed.is_main() else None)
    if distributed.any_process(data.digest != choices['data']):
        raise UserError('the corpora differ between processes; give every host the same files')
    return choices


def _check_stored(config: Config, workdir: Workdir) -> None:
    """Refuses to go on with another config than the workdir's."""
    if not (workdir.path / 'config.json').is_file():
        if workdir.checkpoints.exists():
            raise UserError(f'{workdir.path} has checkpoints but no config.json; restore it, or use another workdir')
        return
    differences = config_json.difference(workdir.config(), config, ignore=('run_length', 'logging', 'placement'))
    if differences:
        shown = ', '.join(f'{name} was {a!r} and is now {b!r}' for name, (a, b) in differences.items())
        raise UserError(f'{workdir.path} holds a run with another config: {shown}; use another workdir')


def _existing_tokenizer(config: Config, workdir: Workdir) -> Tokenizer | None:
    """The tokenizer of this run, or of the run it starts from; None if one has to be trained."""
    if not workdir.tokenizer_file.is_file() and config.init_from.workdir:
        workdir = Workdir.open(config.init_from.workdir)
    return Tokenizer.load(workdir.tokenizer_file) if workdir.tokenizer_file.is_file() else None


@jax.jit
def _copied(state):
    return jax.tree.map(jnp.copy, state)


class _Run:
    """One attempt: what the loop needs at hand, and the state it moves."""

    def __init__(self, config: Config, workdir: Workdir, data: Any, batches: Any, mesh):
        self.config, self.workdir, self.data, self.batches, self.mesh = config, workdir, data, batches, mesh
        self.checkpoints = Checkpoints(workdir.checkpoints)
        self.placed = placed_state(config, mesh)
        self.state, record, self.origin = initialize(config, workdir, self.checkpoints, self.placed)
        self.step = int(self.state.step)
        if self.step > config.training.steps:
            raise UserError(
                f'{workdir.path} is at step {self.step}, past training.steps {config.training.steps}; ask for more, or '
                'use another workdir'
            )
        self.writer = NoWriter()
        if distributed.is_main():
            if workdir.repair_metrics():
                logging.warning('cut a torn last line off %s', workdir.metrics_file)
            self.writer = MetricsWriter(workdir, workdir.last_attempt() + 1, config.log.tensorboard, self.step)
        self.ledger = Ledger(config, self.writer, record, mesh.size)
        self.hyper = jax.device_put(hyperparameters(config), mesh_lib.replicated(mesh))
        self.model_params = jax.jit(lambda params, frozen: full_params(config, params, frozen))
        if needs_reference(config):
            attach_reference(config, workdir, data, mesh, self._first_params)
        self.train_step = make_step(config, mesh, self.placed, data)
        self.evaluator = make_evaluator(config, data, mesh, self.train_step)
        self.facts = {
            'objective': config.objective.kind,
            'parameters': sum(leaf.size for leaf in jax.tree.leaves(self.placed.frozen or self.placed.params)),
            'trained_parameters': sum(leaf.size for leaf in jax.tree.leaves(self.placed.params)),
            'data': data.statistics,
            'config_hash': config_json.config_hash(config),
            'identity_hash': config_json.identity_hash(config),
            'code_version': code_version(),
            'attention_backend': config.model.attention_backend,
            'environment': environment(),
        }

    def train(self, progress: bool) -> dict[str, Any]:
        total = self.config.training.steps
        self._note('start', self.origin)
        logging.info('attention: %s', self.config.model.attention_backend)
        self.write_summary('running', self.origin)
        if not self.checkpoints.steps():
            if self.state.frozen:
                save_frozen(self.workdir, self.state.frozen)
            self._save()  # so that there is always something to go back to
            if not isinstance(self.config.objective, NextToken):
                self._evaluate()  # what the model could do before
        stream = self._stream()
        bar = tqdm(total=total, initial=self.step, unit='step', disable=not progress, dynamic_ncols=True)
        with StopSignal() as stop, bar:
            pending = None  # the step whose metrics are on their way
            while self.step < total:
                self.state, metrics = self.train_step(self.state, self.train_step.place(next(stream)), self.hyper)
                self.step += 1
                ready, pending = pending, (self.step, metrics)
                lost = self._read(ready)
                stopping = self._stopping(stop)
                evaluating = self.step % self.config.evaluation.every == 0 or self.step == total
                saving = self.step % self.config.checkpoint.every == 0 or self.step == total or stopping
                if lost is None and (evaluating or saving):
                    lost, pending = self._read(pending), None
                if lost is not None:
                    self._roll_back(*lost)
                    stream, pending = self._stream(), None
                    bar.n = self.step
                    continue
                bar.set_postfix_str(self.ledger.shown, refresh=False)
                bar.update()
                self.ledger.leave_out(self.checkpoints.poll(self.config.checkpoint))
                if evaluating or saving:
                    self.ledger.pause()
                    self.ledger.record['held_out_loss'] = self._evaluate() if evaluating else None
                    if saving:
                        self._save()
                    if stopping and self.step < total:
                        self.checkpoints.finish(self.config.checkpoint)
                        number = stop.signal or signal.SIGTERM  # another process's
                        message = f'stopped by signal {number} at step {self.step}; the same command goes on'
                        self.write_summary('interrupted', message)
                        raise Interrupted(number)
                    self.ledger.resume()
        self.checkpoints.finish(self.config.checkpoint)
        if 'held_out' not in self.facts:
            self._evaluate()  # a run that was stopped between its last checkpoint and its summary
        whole = self._whole(self.state.params)
        return self.write_summary('done', f'{total} steps', params_sha256=params_sha256(whole))

    def close(self) -> None:
        self.writer.close()
        self.checkpoints.close()

    def _stream(self):
        batches = self.batches.iterate(self.step, self.ledger.record['skipped'], self.train_step.local_rows)
        return self.ledger.watch(batches)

    def _stopping(self, stop: StopSignal) -> bool:
        """Whether to stop after this step. Several processes ask each other at the steps that are logged only."""
        if jax.process_count() > 1 and self.step % self.config.log.every:
            return False
        return distributed.any_process(stop.signal is not None)

    def _read(self, pending) -> tuple[int, str] | None:
        """Enters a step's metrics. Returns the step and the reason if the run is lost there."""
        if pending is None:
            return None
        reason = self.ledger.read(*pending)
        return None if reason is None else (pending[0], reason)

    def _first_params(self) -> Any:
        """The whole model as it was before the first step."""
        state = self.state if self.step == 0 else begin(self.config, self.placed)[0]
        return self._whole(state.params)

    def _whole(self, params: Any) -> Any:
        """The whole model's parameters, of those that are trained."""
        return self.model_params(params, self.state.frozen) if self.config.lora.rank else params

    def _evaluate(self) -> float:
        """Measures the held-out data, all of it after the last step, and writes a sample.

        Returns the loss, or what else is to be low: the negative reward.
        """
        last = self.step == self.config.training.steps
        windows = None if last else self.config.evaluation.max_windows
        params = self._whole(self.state.params)
        measured = self.evaluator.measure(params, windows)
        if self.state.ema is not None:
            averaged = self.evaluator.measure(self._whole(self.state.ema), windows)
            measured |= {f'ema_{name}': averaged[name] for name in ('loss', 'bits_per_byte') if name in averaged}
        self.writer.write('evaluation', self.step, **measured)
        if last:
            self.facts['held_out'] = measured | {'documents': self.data.statistics['held_out'].get('documents')}
            if 'reward_std' in measured and isinstance(self.config.objective, RewardModel):
                # What rewards are standardised by where the model is used; there are more rows to train on.
                many = PreferenceEvaluator(self.config, self.data.train, self.mesh).measure(params, STATISTICS_ROWS)
                self.facts['reward_statistics'] = {'mean': many['mean_reward'], 'std': many['reward_std']}
        talks = not isinstance(self.config.objective, RewardModel) and self.config.evaluation.sample_tokens > 0
        if talks and jax.process_count() == 1:  # the decoder serves one process
            self._sample(params)
        return measured['loss'] if 'loss' in measured else -measured['reward']

    def _sample(self, params: Any) -> None:
        """Continues the config's prompt; after fine-tuning, answers the first held-out one."""
        tokenizer, prompt = self.data.tokenizer, self.config.evaluation.sample_prompt
        if isinstance(self.config.objective, NextToken):
            ids = tokenizer.encode(prompt)
        else:
            ids = self.data.held_out.prompt(0)
            prompt = tokenizer.decode(ids)
        generator = Generator(Transformer(self.config.model), params, tokenizer)
        limit = self.config.evaluation.sample_tokens
        (sample,) = generator.generate([ids], SAMPLING, max_new_tokens=limit, past_context='slide')
        self.writer.write('sample', self.step, prompt=prompt, text=sample.text)

    def _save(self) -> None:
        state = self.state
        if jax.default_backend() == 'cpu':
            state = _copied(state.replace(frozen={}))  # the next step takes this memory while it is still being written
        record = json.loads(json.dumps(self.ledger.record | {'config': config_json.to_dict(self.config)}))
        self.checkpoints.save(self.step, state.stored(), record, self.config.checkpoint)
        self.writer.sync()

    def _roll_back(self, lost_at: int, reason: str) -> None:
        """Goes back to a checkpoint from before `lost_at`, leaving out the batches that led there."""
        config, record = self.config.divergence, self.ledger.record
        self.checkpoints.finish(self.config.checkpoint)
        distributed.barrier('rollback')  # process 0 writes the manifests that all read now
        offending = data_index(lost_at - 1, record['skipped'])
        if len(record['rollbacks']) >= config.max_rollbacks:
            message = f'diverged at step {lost_at} (batch {offending}): {reason}; {self._diagnose(lost_at)}'
            raise MachineError(f'gave up after {config.max_rollbacks} rollbacks. {message}')
        limit = lost_at - 1
        if record['rollbacks'] and lost_at - record['rollbacks'][-1][0] <= config.window:
            limit = min(limit, record['rollbacks'][-1][1] - 1)  # the last place gone back to did not help
        good = self.checkpoints.newest_good(max(limit, self.checkpoints.steps()[0]))
        if good is None:
            raise MachineError(f'diverged at step {lost_at} ({reason}) and no checkpoint to go back to verifies')
        self.checkpoints.delete_after(good)
        first = data_index(max(lost_at - config.skip, good), record['skipped'])
        changed = {
            'skipped': divergence.merge(record['skipped'], (first, offending + 1)),
            'rollbacks': [*record['rollbacks'], [lost_at, good]],
        }
        self.ledger.record = self.checkpoints.record(good) | changed
        if distributed.is_main():
            self.checkpoints.write_record(good, self.ledger.record)
        self.state = restore(self.checkpoints, good, self.placed, self.state.frozen)
        self.step = good
        self.ledger.pause()
        self.ledger.mark()
        message = f'{reason} at step {lost_at}; back at step {good}, leaving out batches {first} to {offending}'
        logging.warning('%s', message)
        self._note('rollback', message)

    def _diagnose(self, lost_at: int) -> str:
        """Replays from the last good checkpoint up to the lost step, and looks at what it was about to do."""
        if jax.process_count() > 1:
            return 'start it again on one process, which can look at the lost step'
        self.step = self.checkpoints.newest_good(lost_at - 1)
        if self.step is None:
            return 'no checkpoint verifies, so the step cannot be replayed'
        state = restore(self.checkpoints, self.step, self.placed, self.state.frozen)
        for batch in self._stream():
            if self.step == lost_at - 1:
                rows = mesh_lib.place(self.mesh, self.config.training.batch_size, batch)
                whole = self.model_params(state.params, state.frozen)  # the step took what self.state held
                return divergence.diagnose(self.config, whole, rows)
            state, _ = self.train_step(state, self.train_step.place(batch), self.hyper)
            self.step += 1

    def _note(self, event: str, message: str) -> None:
        self.writer.write('event', self.step, event=event, message=message)
        logging.info('%s', message)

    def write_summary(self, status: str, message: str, **more: Any) -> dict[str, Any]:
        standing = {'status': status, 'step': self.step, 'message': message}
        summary = standing | self.facts | self.ledger.totals() | self.ledger.timing() | more
        if distributed.is_main():
            self.workdir.write_summary(summary)
        return summary
