"""Benchmarks of this package, its alternatives, and the limit of the network.

``make bench``, or ``python -m benchmarks [--quick] [--only TABLE] [--save]``, prints Markdown tables and, at the end,
each target beside its measurement. It fails if one is missed. There is nothing to set up: the server is the project's
sandbox, and the peers are installed once, into separate virtual environments (``.venv-benchmarks/``).

``contenders/``    one script each: reads the whole list from a URL, writes JSON lines
``requirements/``  the pinned versions of the peers
``server.py``      the sandbox in its own process, whose ledger is the truth about the list
``running.py``     one run of a contender in a fresh process: times, CPU, memory, rows missing and doubled
``tables.py``      the comparisons, their lists, and the targets
``targets.py``     measures a missed target again, and fails if it is still missed

``many_workers.py``, ``waiting.py``, ``deferred.py``, ``loading.py``, ``export_memory.py``: programs of their own.
``faults/`` and ``soak.py`` judge reliability, and ``documents.py`` puts what they found into the documentation.

Times and memory are taken inside the contender's process, after its imports, which cost the same for any list.
"""
