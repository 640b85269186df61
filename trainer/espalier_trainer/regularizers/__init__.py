"""One file per block, named after it in snake_case; protocol.lookup imports the file that a declared block needs."""
