"""Side-by-side speed measurements; nothing imports them."""
