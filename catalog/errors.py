"""What a user can do wrong, in one family: the command line prints it and exits with 2, everything else is a bug.

    CatalogError
      InvalidRecords (record)        files of the catalog break rules; all of them are named
      BadQuery (query)               a question that cannot be answered
      DatabaseTrouble (database)     the database cannot be used
      InvalidReport (results)        a file is no report of a run
      Unreadable (encoding)          a list cannot be read without guessing
      AlreadyThere (importer_files)  the folder for a new catalog holds something
      Unformattable (fmt)            a file cannot be written in another form
      BadName (skeleton)             no record can be begun under this name

The text of each says where, which rule, and what to do.
"""

from __future__ import annotations


class CatalogError(Exception):
    """A mistake of the user or of the surroundings; its text is for people."""

    @property
    def messages(self) -> list[str]:
        """One text for every problem."""
        return [str(self)]
