"""Text in, number out: the one scoring path of training, sampling, search and evaluation. Never imports
torch."""
