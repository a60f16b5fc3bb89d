"""What a training script says before it begins, and which command it names at its end."""

import json
from dataclasses import replace

import train_ppo
import train_sft
from rl import RagEnv
from rl.runs.flags import parse
from rl.runs.run import is_pretrained
from rl.runs.setting import say_misfits
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


def test_what_began_with_somebody_elses_weights_has_defaults_of_its_own(tmp_path):
    """Also in PPO, from what the warm-up's run.json says; a flag that is given counts always. At
    the rate of a small policy a pretrained one would forget all it knows."""

    def parsed(script, *words):
        return parse(script.Args, "", list(map(str, words)), is_pretrained)

    args = parsed(train_sft, "--init", tmp_path / "model.gguf", "--read-steps", 900)
    assert (args.pretrained, args.lr, args.mix_steps, args.read_steps) == (True, 1e-4, 60, 900)
    args = parsed(train_sft)
    assert (args.pretrained, args.lr, args.mix_steps) == (False, 2e-3, 300)
    (tmp_path / "config.json").write_text("{}")
    for pretrained, lr in ((True, 5e-5), (False, 4e-4)):
        record = {"script": "train_sft", "arguments": {"pretrained": pretrained}}
        (tmp_path / "run.json").write_text(json.dumps(record))
        args = parsed(train_ppo, "--init", tmp_path)
        assert (args.pretrained, args.lr) == (pretrained, lr)
        assert parsed(train_ppo, "--init", tmp_path, "--lr", 1e-3).lr == 1e-3


def test_the_warm_up_of_a_short_phase_is_short():
    assert [train_sft.schedule(step, 900) for step in (0, 9, 19)] == [0.05, 0.5, 1.0]
    assert [train_sft.schedule(step, 50) for step in (0, 3, 4)] == [0.2, 0.8, 1.0]
    assert train_sft.schedule(899, 900) == 0.05 + 0.95 / 360
