"""Benchmarks against what a user would pick instead, and against what the network allows.

``make bench``, or ``python -m benchmarks [--quick] [--only TABLE] [--save]``, prints markdown tables and, at the end,
each thing this package means to reach beside what was measured. Nothing needs to be set up: the server is the project's
sandbox, and the peers are installed into virtual environments of their own (``.venv-benchmarks/``), once.

``contenders/``    one script each: reads the whole list from a URL, writes JSON lines
``requirements/``  what peers need; versions only
``server.py``      the sandbox in its own process, which also tells what the list really held
``running.py``     one run of a contender in a fresh process: times, CPU, memory, rows missing and doubled
``tables.py``      what is compared, on which lists, and what this package means to reach

Times and memory are taken inside the contender's process, after its imports: these cost the same whatever is read.
"""
