"""Numbers that a version must prove, with their uncertainty: numpy only, so that every definition can be read and tested."""
