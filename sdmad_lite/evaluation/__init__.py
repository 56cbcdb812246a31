"""Protocols, baselines and experiments: how good is it, and compared with what."""
