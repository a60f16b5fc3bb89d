"""What a training script says before it begins, and which command it names at its end."""

from dataclasses import replace

import train_sft
from rl import RagEnv
from rl.runs.setting import say_misfits
from rl.runs.training import next_training
from tests.rl.tiny import QUESTIONS, TOKENIZER, Retriever, world


def test_questions_and_answers_that_do_not_fit_are_counted(capsys):
    """The last of four has an answer of five tokens or more; the first one's gold passage states
    another answer."""
    env = RagEnv(world(), Retriever(), passage_tokens=16, query_budget=8)
    longest = max(len(TOKENIZER.encode(q.answers[0])) for q in QUESTIONS)
    questions = [replace(QUESTIONS[0], answers=("Velmor",)), *QUESTIONS[1:]]
    say_misfits(questions, TOKENIZER, replace(env, answer_budget=longest + 1), 512)
    assert (
        capsys.readouterr().out == "1 of 4 training answers are not stated by their gold passage\n"
    )
    say_misfits(QUESTIONS, TOKENIZER, replace(env, answer_budget=longest), 512)
    assert capsys.readouterr().out == (
        f"1 of 4 training answers are longer than {longest - 1} tokens: never demonstrated as a"
        " whole, never right; train_sft.py --answer-tokens allows more\n"
    )


def test_the_next_command_is_for_a_pretrained_policy():
    """At train_ppo.py's own rate, for a small policy, it would forget all it knows."""
    said = next_training(train_sft.Args(init="X", out="runs/mine-sft"))
    assert said == "python train_ppo.py --init runs/mine-sft --out runs/mine-ppo --lr 1e-5"
    assert "--lr" not in next_training(train_sft.Args())
