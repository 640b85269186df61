"""The contract all rooms share: kinds, regularizer blocks, validator rules, results, names. Needs pydantic and nothing else."""
