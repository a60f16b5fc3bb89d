"""Who plays which part of an episode, where separately trained policies share it.

`Roles` is a policy-like object: rollout plays it as it plays a Policy and knows nothing of parts.
The four share a tokenizer. `only` is the episode as one of them learns it.
Left out: how the policies are trained (modules.py, train_ppo.py --learn).

Shapes: B rows of a session, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model import Config, Policy, Session, Tokenizer
from model.pretrained import open_policy
from rl import ACTIONS, Decoding, Episode, Part
from rl.runs.flags import UsageError, arg

LEARN = ",".join(part.name.lower() for part in ACTIONS)  # decision,query,answer


@dataclass
class RoleArgs:
    learn: str = arg(LEARN, "parts that learn; frozen --init plays the others", "study")
    reader: str = arg("", "frozen checkpoint that answers after an observation")
    force: str = arg("", "retrieve: all episodes begin with a retrieval", choices=("", "retrieve"))


@dataclass(frozen=True)
class Roles:
    """decision, query, and two who answer: reader after an observation, direct at once."""

    decision: Policy
    query: Policy
    reader: Policy
    direct: Policy
    retrieve: int  # the id of [RETRIEVE]

    @property
    def players(self) -> tuple[Policy, ...]:
        return self.decision, self.query, self.reader, self.direct

    @property
    def config(self) -> Config:
        """The decision's, with the context that all players have."""
        context = min(player.config.max_position_embeddings for player in self.players)
        return replace(self.decision.config, max_position_embeddings=context)

    @property
    def device(self) -> torch.device:
        return self.decision.device

    def for_inference(self) -> "Roles":
        twins = {player: player.for_inference() for player in dict.fromkeys(self.players)}
        return Roles(*(twins[player] for player in self.players), self.retrieve)

    def session(self, prompts: list[list[int]]) -> "RolesSession":
        sessions = {player: player.session(prompts) for player in dict.fromkeys(self.players)}
        return RolesSession(self, sessions, self.direct)


@dataclass
class RolesSession:
    """Each player's session over the same rows; as model.Session, and as immutable."""

    roles: Roles
    sessions: dict[Policy, Session]
    answerer: Policy

    @property
    def logits(self) -> Tensor:
        """float32 [B, V]: what the decision is taken from."""
        return self.sessions[self.roles.decision].logits

    @property
    def length(self) -> Tensor:
        return self.sessions[self.roles.decision].length

    def generate(self, first: Tensor, budget: Tensor, *how) -> list[list[int]]:
        """As Session.generate; rows whose `first` token is [RETRIEVE] are written by `query`."""
        query, answerer = self.roles.query, self.answerer
        if query is answerer:
            return self.sessions[query].generate(first, budget, *how)
        texts: list[list[int]] = [[]] * len(first)
        retrieves = first == self.roles.retrieve
        for player, chosen in ((query, retrieves), (answerer, ~retrieves)):
            rows = chosen.nonzero().squeeze(-1)
            if len(rows):
                session = self.sessions[player].select(rows)
                written = session.generate(first[rows], budget[rows], *how)
                for row, text in zip(rows.tolist(), written, strict=True):
                    texts[row] = text
        return texts

    def select(self, rows: Tensor) -> "RolesSession":
        sessions = {player: session.select(rows) for player, session in self.sessions.items()}
        return replace(self, sessions=sessions)

    def feed(self, chunks: list[list[int]]) -> "RolesSession":
        """After an observation nobody answers at once any more."""
        going = dict.fromkeys((self.roles.decision, self.roles.query, self.roles.reader))
        sessions = {player: self.sessions[player].feed(chunks) for player in going}
        return replace(self, sessions=sessions, answerer=self.roles.reader)


def only(episode: Episode, learn: Sequence[Part]) -> Episode:
    """The episode with all parts but these as state. What the tokens of others earn (a frozen
    reader's answer) belongs to the learnt token before them, which led there."""
    if len(learn) == len(ACTIONS):
        return episode
    parts = [part if part in learn else Part.STATE for part in episode.parts]
    rewards, last = [0.0] * len(parts), None
    for i, part in enumerate(parts):
        last = last if part == Part.STATE else i
        if last is not None:
            rewards[last] += episode.rewards[i]
    behaviour = episode.behaviour if Part.DECISION in learn else []
    return replace(episode, parts=parts, rewards=rewards, behaviour=behaviour)


def assemble(
    policy: Policy, frozen: Policy, tokenizer: Tokenizer, args
) -> tuple[Policy | Roles, tuple[Part, ...], Decoding]:
    """Who plays, which parts learn, and how training plays, from the arguments of train_ppo.py.

    The policy plays what it learns, the `frozen` warm-up the rest, --reader the answers after an
    observation. With all parts (the default) that is the policy itself. Raises UsageError.
    """
    names = args.learn.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(LEARN.split(",")):
        raise UsageError(f"--learn {args.learn}: some of {LEARN}, each once")
    learn = tuple(Part[name.upper()] for name in names)
    for flag, part in (("reader", Part.ANSWER), ("force", Part.DECISION)):
        value = getattr(args, flag)
        if value and part in learn:
            raise UsageError(f"--{flag} {value} goes with a --learn without {part.name.lower()}")
    explore = {"explore": args.explore, "both": args.both} if Part.DECISION in learn else {}
    decoding = Decoding(args.temperature, True, force=args.force or None, **explore)
    if set(learn) == set(ACTIONS):
        return policy, learn, decoding
    if args.lora_rank:
        raise UsageError("--learn with fewer parts does not go with --lora-rank")
    decision, query, direct = (policy if part in learn else frozen for part in ACTIONS)
    reader = open_role(args, "reader", tokenizer, direct)
    return Roles(decision, query, reader, direct, tokenizer.retrieve), learn, decoding


def open_role(args, name: str, tokenizer: Tokenizer, default: Policy) -> Policy:
    """The frozen policy of the flag --name, else `default`. Raises UsageError, CheckpointError."""
    if not (directory := getattr(args, name)):
        return default
    policy, other, _ = open_policy(directory, args.device)
    if other.backend.get_vocab() != tokenizer.backend.get_vocab():
        raise UsageError(f"--{name} {directory} has another tokenizer than --init {args.init}")
    return policy.requires_grad_(False).eval()
