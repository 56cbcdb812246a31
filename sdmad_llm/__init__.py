"""Companion of the module: sign banks that a language model writes.

`generate` asks for the signs of each category and makes a bank of them (the questions stand in prompts.toml); `chat`
speaks with the server, and alone needs the package openai; `answers` reads what a model says as meant, or refuses it by
name. `sdmad_lite.generate_signs` leads here; `cli` is the command `sdmad signs generate`.
"""

from .generate import Generated, generate_signs, sign_prompt, usable_signs

__all__ = ["Generated", "generate_signs", "sign_prompt", "usable_signs"]
