"""One attempt of a run: everything it has at hand, from its start to its summary. What moves its state is a loop."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from llm import config_json
from llm.config import Config, Corrupted, Distillation, Masked, NextToken, RewardModel
from llm.data import images
from llm.data.batches import data_index
from llm.data.images import ImagePrompt
from llm.environment import code_version, environment
from llm.errors import Interrupted, MachineError, UserError
from llm.inference.generate import Generator
from llm.inference.reading import reader_of
from llm.inference.sampling import SamplingParams
from llm.model import Transformer
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import has_tokenizer
from llm.training import divergence
from llm.training.checkpoint import Checkpoints, params_sha256, save_frozen
from llm.training.evaluate import make_evaluator
from llm.training.evaluate_preferences import PreferenceEvaluator
from llm.training.initialize import begin, initialize, restore
from llm.training.ledger import Ledger
from llm.training.metrics import MetricsWriter, NoWriter
from llm.training.reference import attach_reference, needs_reference
from llm.training.stages import make_step
from llm.training.train_state import placed_state
from llm.training.train_step import full_params, hyperparameters
from llm.workdir import Workdir

STATISTICS_ROWS = 2048  # most rankings that a reward model's mean and deviation are taken over
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95)  # of the samples along the way


@jax.jit
def _copied(state):
    return jax.tree.map(jnp.copy, state)


class Attempt:
    """What a loop needs at hand, and the state it moves.

    Attributes:
        state: moved on by the loop, with `step`, the updates made.
        train_step: see `llm.training.stages.make_step`; `hyper` is its third argument.
        ledger: where the metrics of each step are entered.
        checkpoints: the workdir's.
    """

    def __init__(
        self, config: Config, workdir: Workdir, data: Any, batches: Any, mesh: jax.sharding.Mesh, at: int | None = None
    ):
        """
        Args:
            config: the run's, resolved.
            workdir: its own, locked.
            data: see `llm.training.stages.load_data`.
            batches: see `llm.training.stages.train_batches`.
            mesh: the devices.
            at: go on from the newest good checkpoint that is not past this step.

        Raises:
            UserError: if the run cannot go on, or not begin.
        """
        self.config, self.workdir, self.data, self.batches, self.mesh = config, workdir, data, batches, mesh
        self.checkpoints = Checkpoints(workdir.checkpoints)
        self.placed = placed_state(config, mesh)
        self.state, record, self.origin = initialize(config, workdir, self.checkpoints, self.placed, at)
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
        if isinstance(config.objective, Distillation):
            self.facts['teacher'] = self.train_step.facts

    def describe(self, config: Config, choices: dict[str, Any]) -> None:
        """Writes what a resumption needs: the config as the user gave it, the run-time choices, the tokenizer.

        Once the attempt stands, so that a start that is refused leaves nothing behind for the next to trip over.
        """
        if distributed.is_main():
            self.workdir.write_runtime(choices)
            if not has_tokenizer(self.workdir.path):
                self.data.tokenizer.save_in(self.workdir.path)
            self.workdir.write_config(config)

    def start(self) -> None:
        """Says where it starts. A run that begins is saved and measured, so that there is something to go back to."""
        self.note('start', self.origin)
        logging.info('attention: %s', self.config.model.attention_backend)
        self.write_summary('running', self.origin)
        if not self.checkpoints.steps():
            if self.state.frozen:
                save_frozen(self.workdir, self.state.frozen)
            self.save()
            if not isinstance(self.config.objective, NextToken | Corrupted):
                self.evaluate()  # what the model could do before

    def stream(self) -> Iterator[Any]:
        """The batches from here on, this process's rows of them."""
        batches = self.batches.iterate(self.step, self.ledger.record['skipped'], self.train_step.local_rows)
        return self.ledger.watch(batches)

    def due(self) -> tuple[bool, bool]:
        """Whether to evaluate, and whether to save, after the step just made."""
        last = self.step == self.config.training.steps
        config = self.config
        return last or self.step % config.evaluation.every == 0, last or self.step % config.checkpoint.every == 0

    def keep(self, evaluating: bool, saving: bool) -> None:
        """Evaluates and saves the state as it is."""
        self.ledger.record['held_out_loss'] = self.evaluate() if evaluating else None
        if saving:
            self.save()

    def evaluate(self) -> float:
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
        silent = isinstance(self.config.objective, RewardModel | Masked)
        talks = not silent and self.config.evaluation.sample_tokens > 0
        if talks and jax.process_count() == 1:  # the decoder serves one process
            self._sample(params)
        return measured['loss'] if 'loss' in measured else -measured['reward']

    def _sample(self, params: Any) -> None:
        """Continues the config's prompt; after fine-tuning, answers the first held-out one."""
        tokenizer, prompt = self.data.tokenizer, self.config.evaluation.sample_prompt
        if isinstance(self.config.objective, NextToken | Corrupted):
            ids = tokenizer.encode_text(prompt)
        else:
            ids = self.data.held_out.prompt(0)
        reader = reader_of(self.config, tokenizer)
        generator = Generator(Transformer(self.config.model), params, tokenizer, reader=reader)
        limit, past_context = self.config.evaluation.sample_tokens, 'slide'
        if reader is not None:
            room = self.config.model.context_length - len(reader.prompt(ids).ids) + 1
            limit, past_context = max(1, min(limit, room)), 'error'
        elif isinstance(ids, ImagePrompt):
            limit, past_context = min(limit, self.config.model.context_length - len(ids.ids) + 1), 'error'
            prompt = images.shown(tokenizer, ids)
        elif not isinstance(self.config.objective, NextToken):
            prompt = tokenizer.decode(ids)
        (sample,) = generator.generate([ids], SAMPLING, max_new_tokens=limit, past_context=past_context)
        self.writer.write('sample', self.step, prompt=prompt, text=sample.text)

    def save(self) -> None:
        """Starts writing a checkpoint."""
        state = self.state
        if jax.default_backend() == 'cpu':
            state = _copied(state.replace(frozen={}))  # the next step takes this memory while it is still being written
        record = json.loads(json.dumps(self.ledger.record | {'config': config_json.to_dict(self.config)}))
        self.checkpoints.save(self.step, state.stored(), record, self.config.checkpoint)
        self.writer.sync()

    def roll_back(self, lost_at: int, reason: str) -> None:
        """Goes back to a checkpoint from before `lost_at`, leaving out the batches that led there.

        Raises:
            MachineError: if that was done too often, or there is nothing to go back to.
        """
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
        self.note('rollback', message)

    def _diagnose(self, lost_at: int) -> str:
        """Replays from the last good checkpoint up to the lost step, and looks at what it was about to do."""
        if jax.process_count() > 1:
            return 'start it again on one process, which can look at the lost step'
        self.step = self.checkpoints.newest_good(lost_at - 1)
        if self.step is None:
            return 'no checkpoint verifies, so the step cannot be replayed'
        state = restore(self.checkpoints, self.step, self.placed, self.state.frozen)
        for batch in self.stream():
            if self.step == lost_at - 1:
                rows = self.train_step.place(batch)
                if self.config.parallel.wrapper == 'pmap':
                    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
                whole = self.model_params(state.params, state.frozen)  # the step took what self.state held
                return divergence.diagnose(self.config, whole, rows)
            state, _ = self.train_step(state, self.train_step.place(batch), self.hyper)
            self.step += 1

    def stop(self, number: int) -> Interrupted:
        """Sees to it that what was saved is on the disk, and says how the run stands.

        Args:
            number: of the signal that came.

        Returns:
            What to raise.
        """
        self.checkpoints.finish(self.config.checkpoint)
        self.write_summary('interrupted', f'stopped by signal {number} at step {self.step}; the same command goes on')
        return Interrupted(number)

    def finish(self) -> dict[str, Any]:
        """Ends a run that has made all its steps. Returns its summary."""
        self.checkpoints.finish(self.config.checkpoint)
        if 'held_out' not in self.facts:
            self.evaluate()  # a run that was stopped between its last checkpoint and its summary
        whole = self._whole(self.state.params)
        message = f'{self.config.training.steps} steps'
        return self.write_summary('done', message, params_sha256=params_sha256(whole))

    def fail(self, error: Exception) -> None:
        """Says in the summary what ended the run."""
        with contextlib.suppress(OSError):  # the disk may be what failed
            self.write_summary('failed', str(error))

    def close(self) -> None:
        """Gives back what it holds."""
        self.writer.close()
        self.checkpoints.close()

    def note(self, event: str, message: str) -> None:
        """Writes an event into the metrics and the log."""
        self.writer.write('event', self.step, event=event, message=message)
        logging.info('%s', message)

    def write_summary(self, status: str, message: str, **more: Any) -> dict[str, Any]:
        """Writes how the run stands, and returns it."""
        standing = {'status': status, 'step': self.step, 'message': message}
        summary = standing | self.facts | self.ledger.totals() | self.ledger.timing() | more
        if distributed.is_main():
            self.workdir.write_summary(summary)
        return summary

    def _first_params(self) -> Any:
        """The whole model as it was before the first step."""
        state = self.state if self.step == 0 else begin(self.config, self.placed)[0]
        return self._whole(state.params)

    def _whole(self, params: Any) -> Any:
        """The whole model's parameters, of those that are trained."""
        return self.model_params(params, self.state.frozen) if self.config.lora.rank else params
