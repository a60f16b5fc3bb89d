"""The random streams of a run, by name: numpy's default_rng([seed, Stream.X, ...]). One stream,
one purpose.

The numbers are part of every run's bits: a new purpose gets a new number, and none is used again.
"""

from enum import IntEnum


class Stream(IntEnum):
    READ_QUESTIONS = 0  # train_sft: the questions of a read step
    READ = 1  # train_sft: which of them are answered directly, and their demonstrations
    MIX_QUESTIONS = 2  # train_sft: the questions of a mix step
    MIX = 3  # train_sft: branches and demonstrations of a mix step
    PROBE = 4  # train_sft: which questions are probed
    PPO_QUESTIONS = 5  # train_ppo: the questions of an iteration
    CHECK = 6  # questions and queries of what is only measured or printed
    MODULES_QUESTIONS = 7  # rl/study/modules.py: the questions of a step
    RENAMING = 8  # train_ppo, rl/study/modules.py: new names
    TYPING = 9  # which questions are typed in lower case
