"""The Centrifuge client protocol, version 2, without I/O and without a clock."""
