"""How does state live in this process's memory, and survive it?

home.py        the home: a commit writes the rows that changed
table.py       one row per key              multimap.py    any number of rows per key
stored.py      what both keep: rows by slot, and when they expire
keys.py        from keys to numbers, by     index.py       their hashes
lists.py       from numbers to slots        numbers.py     which are free
slots.py       rows in records of words     arrays.py      that grow and shrink at their end
expiry.py      which rows are due           folding.py     how rows of one key become one
young.py       rows of a multimap that came last, before they are found by key
"""

from __future__ import annotations

__all__: list[str] = []
