"""Slow, obviously right twins: a strict reader of episodes (format, parts, rewards: DESIGN section
3) and GAE as a double sum.

They share no code with rl/. Reading: a token sequence goes in, and what every token must be comes
out. Any departure is an error.
"""

from typing import NamedTuple

from data.metrics import exact_match, f1_score


class Action(NamedTuple):
    retrieve: bool
    words: str
    malformed: bool
    start: int  # column of the decision token
    end: int  # column after the last token
    free: bool


class Reading(NamedTuple):
    kinds: list[str]  # of every token: STATE, DECISION, QUERY, ANSWER
    actions: list[Action]
    observations: list[list[list[int]]]  # passages as tokens
    question: list[int]


def special_tokens(tokenizer) -> set[int]:
    ends = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.obs, tokenizer.obs_end}
    return ends | {tokenizer.sep, tokenizer.retrieve, tokenizer.answer}


def read(
    tokens: list[int],
    tokenizer,
    quota: int,
    query_budget: int,
    answer_budget: int,
    forced: bool = False,
    given: bool = False,
) -> Reading:
    """forced: the first decision was; given: so was the first query."""
    special = special_tokens(tokenizer)
    assert tokens[0] == tokenizer.bos, "an episode opens with <bos>"
    at = 1
    while tokens[at] not in special:
        at += 1
    question, kinds, actions, observations = tokens[1:at], ["STATE"] * at, [], []
    while True:
        retrieve = tokens[at] == tokenizer.retrieve
        assert retrieve or tokens[at] == tokenizer.answer, (
            f"an action opens with an action token, not {tokens[at]}"
        )
        assert not (retrieve and len(observations) >= quota), "more retrievals than the quota"
        first = not observations
        free = not (forced and first) and len(observations) < quota
        budget, start = query_budget if retrieve else answer_budget, at
        kinds.append("DECISION" if free else "STATE")
        at += 1
        while at < len(tokens) and tokens[at - 1] != tokenizer.eos:
            own = "QUERY" if retrieve else "ANSWER"
            kinds.append("STATE" if given and first and retrieve else own)
            at += 1
        written = tokens[start + 1 : at]
        assert 0 < len(written) <= budget, "every action has a text within its budget"
        ended = written[-1] == tokenizer.eos
        assert ended or len(written) == budget, "only the budget cuts a text"
        words = tokenizer.backend.decode([t for t in written if t not in special]).strip()
        malformed = not ended or not words
        actions.append(Action(retrieve, words, malformed, start, at, free))
        if malformed or not retrieve:
            assert at == len(tokens), "nothing follows the last action"
            return Reading(kinds, actions, observations, question)
        assert tokens[at] == tokenizer.obs, "an observation answers a query"
        end = tokens.index(tokenizer.obs_end, at)
        observations.append(passages_of(tokens[at + 1 : end], tokenizer))
        kinds += ["STATE"] * (end + 1 - at)
        at = end + 1


def passages_of(inside: list[int], tokenizer) -> list[list[int]]:
    """What stands between <obs> and </obs>."""
    passages: list[list[int]] = [[]]
    for token in inside:
        if token == tokenizer.sep:
            passages.append([])
        else:
            assert token not in special_tokens(tokenizer), "a passage speaks no special token"
            passages[-1].append(token)
    return passages if inside else []


def check(episode, tokenizer, env, forced: bool = False, given: bool = False) -> Reading:
    """Read an episode and hold everything it claims against the reading; search and passages are
    done again, slowly."""
    budgets = env.query_budget, env.answer_budget
    reading = read(episode.tokens, tokenizer, env.quota, *budgets, forced, given)
    assert [part.name for part in episode.parts] == reading.kinds
    assert len(episode.behaviour) == sum(action.free for action in reading.actions)
    assert tokenizer.decode(reading.question) == episode.question.question or episode.truncated
    expected, answers = [0.0] * len(episode.tokens), episode.question.answers
    for action in reading.actions:
        last = action.end - 1
        if action.malformed:
            expected[last] = -env.reward.malformed_cost
        elif action.retrieve:
            expected[last] = -env.reward.retrieval_cost
        else:
            em, f1 = exact_match(action.words, answers), f1_score(action.words, answers)
            expected[last] = env.reward.exact_match * em + env.reward.f1 * f1
            assert (episode.answer, episode.exact_match, episode.f1) == (action.words, em, f1)
    assert episode.rewards == expected
    *before, last = reading.actions
    assert episode.malformed == last.malformed
    assert not any(action.malformed for action in before)
    check_turns(episode, tokenizer, env, reading)
    return reading


def check_turns(episode, tokenizer, env, reading: Reading) -> None:
    """The queries, what was found for each, and whether it was a hit."""
    asked = [action for action in reading.actions if action.retrieve and not action.malformed]
    queries = [action.words for action in asked]
    assert [turn.query for turn in episode.turns] == queries and episode.retrievals == len(queries)
    results = [env.index.search([query], k=env.k)[0][0].tolist() for query in queries]
    found = [[i for i in row if i >= 0] for row in results]
    assert [turn.passages for turn in episode.turns] == found
    for rows, passages in zip(found, reading.observations, strict=True):
        texts = [f"{env.corpus[i].title} {env.corpus[i].text}" for i in rows]
        assert passages == [tokenizer.encode(words)[: env.passage_tokens] for words in texts]
    gold = episode.question.gold_passages
    if gold is not None:
        ids = {env.corpus[i].id for rows in found for i in rows}
        needs_all = episode.question.type in ("bridge", "comparison") and gold
        assert episode.hit == (set(gold) <= ids if needs_all else bool(set(gold) & ids))


def slow_advantages(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> list[float]:
    """Schulman et al. (2016), eq. 16 as it stands: A_t = sum over l of (gamma lambda)^l
    delta_(t+l), V = 0 after the end."""
    values = [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
    return [
        sum((gamma * lam) ** (j - t) * deltas[j] for j in range(t, len(deltas)))
        for t in range(len(deltas))
    ]
