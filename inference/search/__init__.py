"""Search: test-time compute spent on trees of steps."""
