"""Files and folders: where artifacts lie, how they are written, sizes of values."""
