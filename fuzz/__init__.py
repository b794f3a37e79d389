"""Coverage-guided fuzzing of the code that parses untrusted bytes: `make fuzz`.

`targets` holds the properties that must hold for any input, `seeds` the first inputs. `run` passes a target to atheris, and
`python -m fuzz` runs targets and reports the result.
"""
