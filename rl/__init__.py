"""What learns: episodes, the environment, rollouts, advantages and PPO. The core imports model and
data alone."""

from rl.environment import Action, RagEnv, RetrieverError, Reward
from rl.episode import ACTIONS, Batch, Episode, Part, Turn, collate
from rl.experience import Experience, PPOConfig, score_rollout
from rl.ppo import ppo_update
from rl.rollout import GREEDY, Decoding, rollout
from rl.scoring import score

__all__ = [
    "ACTIONS",
    "GREEDY",
    "Action",
    "Batch",
    "Decoding",
    "Episode",
    "Experience",
    "PPOConfig",
    "Part",
    "RagEnv",
    "RetrieverError",
    "Reward",
    "Turn",
    "collate",
    "ppo_update",
    "rollout",
    "score",
    "score_rollout",
]
