"""Worlds (what is asked and what is known), their builders, and answer metrics."""

from data.load import open_world, save_world
from data.world import Passage, Question, World, WorldError

World.open = staticmethod(open_world)  # attached here: the format is no business of the core
World.save = save_world

__all__ = ["Passage", "Question", "World", "WorldError"]
