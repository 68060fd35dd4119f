"""The version, as a constant: asking the installed metadata costs more start-up time than all of a small fetch's planning."""

VERSION = "0.1.0"
