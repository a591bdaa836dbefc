"""One step replayed message by message, at up to ten thousand ranks."""
