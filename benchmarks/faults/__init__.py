"""Effects of faults on all components, in a deployment as in production.

``python -m benchmarks.faults [--only FAULT]`` starts the deployment of ``make distributed``. For each fault all uses
are under way: hook, operator, the sensor in its modes, the event trigger, each with an API of its own. The fault
begins, invoices are paid meanwhile, the fault ends, and what became of it is compared with the ledgers of the APIs.

``deployment.py``  the uses, and the APIs, store, database and processes that faults are done to
``disks.py``       two disks that can be full
``causes.py``      the faults: how each begins and ends
``trial.py``       one fault from its beginning to the results
``judge.py``       the results against the truth
"""
