"""Programs that write or check files of this repository, and the demo. Not part of the distribution."""
