"""Engines that turn prompts into completions, and the stages that spend them."""
