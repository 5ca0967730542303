"""What flows through slowthink: nouns, sources, chat rendering, filters, run folders. Never imports torch."""
