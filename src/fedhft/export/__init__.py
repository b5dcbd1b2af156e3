"""A job's adapters, written as files that other programs load.

Reading order:

    published        fetch the last version of a job and write everything that was asked for
    peft_directory   one adapter as PEFT stores it: factors, head, configuration
    model_card       its README.md: what it is, whose scores they are, how to load it
"""
