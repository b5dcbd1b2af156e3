"""The aggregator's own page: what its jobs are doing, read-only, for people with a browser.

access.py    who may look, and where it may be served
server.py    addresses of the page, headers, events; threads of its own
readings.py  what is read of the store, through the same descriptions that the Jobs service answers with
views.py     these descriptions as JSON, bounded
feed.py      follows the jobs that somebody looks at, on an event loop and a store connection of its own
board.py     the last thing to say of each job, for the threads that stream it
static/      HTML, CSS, JavaScript; vendor/ has the chart library with its licence
"""
