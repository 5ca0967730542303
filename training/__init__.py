"""Training stages on the trainers of transformers and TRL."""
