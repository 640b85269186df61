"""From a snapshot in the store to arrays: read, checked, split. Every complaint names the file, the column and the row."""
