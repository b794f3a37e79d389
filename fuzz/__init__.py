"""Coverage-guided fuzzing of what reads strangers' bytes: `make fuzz`.

`targets` says what must hold for any input, `seeds` makes the inputs to begin with, `run` hands a target to atheris, and
`python -m fuzz` runs targets and tells what came of it.
"""
