"""What a user should know about the training questions before an hour of work."""

from collections.abc import Sequence

from data.metrics import gold_passage, stated
from data.world import Question
from model import Tokenizer
from rl.environment import RagEnv
from rl.runs.progress import say


def say_misfits(
    questions: Sequence[Question], tokenizer: Tokenizer, env: RagEnv, context: int
) -> None:
    """Print how many questions are cut, how many answers do not fit the answer budget, and how many are
    not stated by their gold passages. Raises ContextError."""
    limit, total = env.question_limit(context), len(questions)
    asked = tokenizer.encode_batch([q.question for q in questions])
    answers = tokenizer.encode_batch([q.answers[0] for q in questions])
    if cut := sum(len(ids) > limit for ids in asked):
        say(f"{cut} of {total} training questions are longer than {limit} tokens, and are cut")
    if long := sum(len(ids) >= env.answer_budget for ids in answers):
        say(
            f"{long} of {total} training answers are longer than {env.answer_budget - 1} tokens: never"
            " demonstrated as a whole, never right; give --answer-tokens"
        )
    rows = {passage.id: row for row, passage in enumerate(env.corpus)}
    silent = 0
    for question in questions:
        row = gold_passage(question, rows)
        silent += row is not None and not question.type and not stated([env.corpus[row]], question)
    if silent:
        say(f"{silent} of {total} training answers are not stated by their gold passage")
