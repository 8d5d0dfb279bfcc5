"""The work of each command, as data in and a result out."""
