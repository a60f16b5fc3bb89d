"""What learns: the environment, rollouts, rewards, advantages and PPO. Imports model and data, never a retriever."""
from .environment import RagEnv, RetrieverError
from .episode import Batch, Episode, Turn, collate, observation
from .parallel import Workers
from .ppo import Experience, PPOConfig, collect, ppo_update, score
from .reward import Reward
from .rollout import GREEDY, Decoding, Roles, rollout

__all__ = ["GREEDY", "Batch", "Decoding", "Episode", "Experience", "PPOConfig", "RagEnv", "RetrieverError", "Reward", "Roles", "Turn", "Workers", "collate", "collect",
           "observation", "ppo_update", "rollout", "score"]
