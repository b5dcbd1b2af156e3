"""All state of a federation behind one interface: in Redis, in a shared directory, or in this process.

Reading order:

    interface               what a store can do: agents, jobs, rounds, memberships, waiting
    blobs, transfers        what it can do with bytes: whole blobs, and what is on its way to become one
    keys, lua/              every key in Redis, and every transition: one script each
    redis, redis_*          the store in Redis; connection is the way there, changes the waiting
    in_memory               the same in dictionaries, for simulation and tests
    blobs_*, transfers_*    a file per interface and back end; directory is what the two in files share
    refusals                one message per refusal, the same from every back end
    open                    from settings to a store
"""
