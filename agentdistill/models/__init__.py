"""Engines behind one protocol: llama.cpp in process, OpenAI-compatible, transformers, scripted."""
