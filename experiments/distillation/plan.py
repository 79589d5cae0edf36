"""Does a teacher help a small model, at equal tokens?

The teacher has several times the student's parameters and has read several times its tokens. The students differ in
nothing but the objective: one learns from the text alone; the others also from what the teacher predicts at the same
positions of the same batches. The last arm is a control: its teacher has learned nothing, so that what is left of
distillation there (softer targets, a smaller share of cross-entropy) is no teaching.

Temperature 1 and a share of one half were not tuned, for no arm; nor was the learning rate.
"""

import dataclasses
import pathlib

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation
from llm.analysis import flops, memory, units
from llm.config import AdamW, Config, Cosine, Distillation, TrainingConfig

STEPS, TEACHER_STEPS = 250, 500
TEMPERATURE, SHARE, TOP_K = 1.0, 0.5, 16

STUDENT = dataclasses.replace(
    BASE,
    name='student',
    model=dataclasses.replace(BASE.model, width=48),
    schedule=Cosine(horizon=STEPS, warmup=30),
    training=TrainingConfig(steps=STEPS, batch_size=8),
)
TEACHER = dataclasses.replace(
    BASE,
    name='teacher',
    model=dataclasses.replace(BASE.model, width=128, num_layers=3),
    optimizer=AdamW(learning_rate=5e-3),
    schedule=Cosine(horizon=TEACHER_STEPS, warmup=50),
    training=TrainingConfig(steps=TEACHER_STEPS, batch_size=16),
)


def untrained(teacher: Config) -> Config:
    """A run of the same model that has one update behind it, and as good as none."""
    return dataclasses.replace(
        teacher,
        name='untrained',
        optimizer=AdamW(learning_rate=1e-6),
        training=dataclasses.replace(teacher.training, steps=1),
    )


def ablation(student: Config, teacher: pathlib.Path, untrained: pathlib.Path, about: str) -> Ablation:
    """The students, by what they are taught.

    Args:
        student: the config of the one that learns alone.
        teacher, untrained: workdirs.
        about: what a reader has to know about the teacher.
    """

    def taught(by=teacher, **values):
        values = {'temperature': TEMPERATURE, 'teacher_weight': SHARE} | values
        return {'objective': Distillation(teacher=str(by), **values)}

    return Ablation(
        question='Does a teacher help a small model, at equal tokens?',
        base=student,
        base_label='alone',
        arms={
            'forward KL': taught(),
            'reverse KL': taught(divergence='reverse'),
            'Jensen–Shannon': taught(divergence='jensen_shannon'),
            f'forward KL, top {TOP_K}': taught(top_k=TOP_K),
            'untrained teacher': taught(untrained),
        },
        notes=about,
    )


def about_teacher(student: Config, teacher: Config, bits_per_byte: float) -> str:
    """What the teacher is, and what it costs that no student is charged for."""
    sizes = [units.count(memory.parameter_count(config.model)) for config in (teacher, student)]
    length = student.data.sequence_length
    forward = flops.forward_flops_per_token(teacher.model, length, flops.DEFAULT_CONVENTION)
    asked = forward / flops.training_flops_per_token(student.model, length, flops.DEFAULT_CONVENTION)
    tokens = [c.training.steps * c.training.batch_size * c.data.sequence_length for c in (teacher, student)]
    return (
        f'The teacher: {sizes[0]} parameters (a student: {sizes[1]}), {units.count(tokens[0])} tokens read (a student: '
        f'{units.count(tokens[1])}), {bits_per_byte:.4f} bits per byte. Training it is in no arm’s costs; nor is '
        f'asking it, {asked:.1f} times a student’s training FLOPs for each token.'
    )
