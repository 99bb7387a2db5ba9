"""The hearth: who is here, who listens to what, what happens."""
