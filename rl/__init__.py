"""What learns: episodes, the environment, rollouts, PPO. The core imports model and data alone."""

from rl.environment import Action, RagEnv, RetrieverError, Reward
from rl.episode import ACTIONS, Episode, Part, Turn, collate
from rl.ppo import Experience, PPOConfig, ppo_update, score_rollout
from rl.rollout import GREEDY, Decoding, rollout
from rl.scoring import score

__all__ = [
    "ACTIONS",
    "GREEDY",
    "Action",
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
