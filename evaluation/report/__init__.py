"""One page that shows a run, and its parts: rollouts and search trees."""
