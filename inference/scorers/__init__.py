"""Reward models that judge steps: one protocol, and what implements it."""
