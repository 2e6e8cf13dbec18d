"""Data of which a step of a fit sees a part: cut from memory, or read from outside."""
