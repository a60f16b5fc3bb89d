"""What learns: the environment, rollouts, rewards, advantages and PPO. Imports model and data, never a retriever."""

from rl.environment import RagEnv, RetrieverError
from rl.episode import Batch, Episode, Turn, collate, observation
from rl.ppo import Experience, PPOConfig, collect, ppo_update
from rl.reward import Reward
from rl.rollout import GREEDY, Decoding, Roles, rollout
from rl.runs.parallel import Workers
from rl.scoring import score

__all__ = [
    "GREEDY",
    "Batch",
    "Decoding",
    "Episode",
    "Experience",
    "PPOConfig",
    "RagEnv",
    "RetrieverError",
    "Reward",
    "Roles",
    "Turn",
    "Workers",
    "collate",
    "collect",
    "observation",
    "ppo_update",
    "rollout",
    "score",
]
